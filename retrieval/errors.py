"""The exception tree. Every message says what was found, what was expected, and what to do."""


class RagError(Exception):
    """Base of every error this product raises on purpose; the command line prints it without a traceback."""


class ConfigError(RagError):
    """A setting is unknown, malformed or contradicts another."""


class MissingPackageError(RagError):
    """An optional package is not installed; the message holds the command that installs it."""


class ModelError(RagError):
    """A model is missing, has other bytes than expected, or cannot be run here."""


class AnswerError(RagError):
    """A model refused or failed this one answer; it may well give others."""


class PromptTooLongError(RagError):
    """A prompt and the answer asked for do not fit the reader's window."""


class TextTooLongError(RagError):
    """A text has more tokens than the encoder reads. The encoder never truncates."""


class EmptyTextError(RagError):
    """A text is blank where words are needed."""


class ParseError(RagError):
    """A file cannot be read as a document. `advice` says what the user can do about it."""

    def __init__(self, reason: str, *, advice: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.advice = advice


class IngestError(RagError):
    """Nothing could be ingested."""


class IndexMissingError(RagError):
    """There is no index at the given place."""


class IndexMismatchError(RagError):
    """The index was built with another encoder, chunking or format than the one asked for."""


class IndexBusyError(RagError):
    """Another process is writing to the index."""


class IndexCorruptError(RagError):
    """An artefact of the index does not match the store."""


class ChangedError(RagError):
    """A document was changed or removed between being found and being read; asking again finds what there is now."""

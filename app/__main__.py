"""Start the command line: `rag` and `python -m app`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its code: 0 done, 1 failed, 2 usage, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal's encoding lacks is shown as an escape instead of stopping the program.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        from app.cli.root import app

        app(prog_name="rag")
    except KeyboardInterrupt:  # before or after the command itself, which says more
        sys.exit(130)


if __name__ == "__main__":
    main()

"""The one page that is shown without a token: it asks for it. Knows nothing else."""

from __future__ import annotations

from starlette.responses import HTMLResponse

_STYLE = (
    ":root{color-scheme:light dark}body{font:17px/1.6 system-ui,sans-serif;max-width:26rem;margin:18vh auto;"
    "padding:0 1.5rem}h1{font-size:1.4rem}input,button{font:inherit;padding:.55rem .8rem;width:100%;"
    "box-sizing:border-box;margin-top:.75rem}code{font-size:.9em}"
)
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Sign in</title><style nonce="{nonce}">{style}</style>
<main><h1>This library is private</h1>
<p>Paste its token. It was printed when the server was first started; <code>rag serve --show-token</code> prints it
again.</p><p lang="zh">请粘贴访问令牌。<code>rag serve --show-token</code> 可以再次显示它。</p>
<form method="post" action="/signin"><label for="token">Token · 令牌</label>
<input id="token" name="token" type="password" required autofocus autocomplete="current-password">
<button>Sign in · 登录</button></form>{problem}</main></html>
"""


def sign_in_page(status: int = 401, *, refused: bool = False) -> HTMLResponse:
    """The form, and that the last token was wrong where it was."""
    import secrets

    nonce = secrets.token_urlsafe(12)
    said = '<p role="alert">This is not the token. · 令牌不正确。</p>' if refused else ""
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(
        _PAGE.format(nonce=nonce, style=_STYLE, problem=said),
        status_code=status,
        headers={"content-security-policy": policy},
    )

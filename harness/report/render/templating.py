"""The jinja2 environment of all pages, and the policy that says which of their scripts run."""

import base64
import hashlib
from collections.abc import Iterable

from jinja2 import Environment, PackageLoader, StrictUndefined

from harness.printable import printable

# A page has no reason to request anything, to send a form, or to change what its links refer to.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def new_environment() -> Environment:
    """Return an environment that escapes all text and raises for names that are not defined.

    Text is made printable; markup, which is made of printable text, stays as it is.
    """
    return Environment(
        loader=PackageLoader("harness.report.render"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def content_security_policy(scripts: Iterable[str] = ()) -> str:
    """Return the policy of a page that runs these inline scripts, by their hashes, and no other.

    A script that was planted in a label or in a log does not run, even if it was not escaped.
    """
    hashes = []
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        hashes.append(f"'sha256-{digest}'")
    if not hashes:
        return POLICY
    return f"{POLICY}; script-src {' '.join(hashes)}; img-src data: blob:"

"""The jinja2 environment of all pages."""

from jinja2 import Environment, PackageLoader, StrictUndefined


def new_environment() -> Environment:
    """Return an environment that escapes all text and raises for names that are not defined."""
    return Environment(
        loader=PackageLoader("harness.report.render"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

"""Every key of a study with every hostile value: a valid value, or an error that names the key.

The keys come from the schema and from the options of all variants. Whether a value may be accepted
is decided by the annotations of the keys. A sample is tried; `FUZZ=5000` tries all.
"""

import dataclasses
import datetime
import os
import subprocess
import tomllib
import typing
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hostile import call, is_clean, sample
from pydantic import BaseModel
from study_fields import FIELDS, STUDY, with_companions

from harness.results.records.settings import CorpusPart
from harness.study.settings import SECTIONS
from harness.study.study_file import StudyFile
from variants import registry
from variants.base import AXES

LONG = "x" * 10_000
NUMBERS = {
    **{text: text for text in ("0", "1", "-1", "-0", "0.5", "-0.5", "1e-320", "0x1F", "1_000")},
    **{text: text for text in ("nan", "-nan", "inf", "-inf", "1e999", "-1e999")},
    **{f"2**{n}": str(2**n) for n in (31, 53, 63, 1000)},
    **{f"2**{n} - 1": str(2**n - 1) for n in (31, 63)},
    **{f"-2**{n}": str(-(2**n)) for n in (31, 63, 64)},
    "5000 digits": "9" * 5000,
    "hexadecimal of 5000 digits": "0x" + "f" * 5000,
    "binary of 70 digits": "0b" + "1" * 70,
}
TEXTS = {  # as Python texts
    **{repr(text): text for text in ("", " ", "\t", "x", "1", "true", "nan", "null", "None", "-")},
    "NUL": "\0",
    "NUL within": "a\0b",
    "colour": "\x1b[31mred\x1b[0m",
    "title": "\x1b]0;title\x07",
    "C1": "\x9b31m\x85",
    "bell and backspace": "\x07\x08\x7f",
    "bidi": "\u202eabc\u2066",
    "line separators": "a\u2028b\u2029c\x0bd\x0c",
    "lines": "a\nb\r\nc\rd",
    "100 lines": "a\n" * 100,
    "long": LONG,
    "long, not ASCII": "é" * 10_000,
    "combining": "a" + "\u0301" * 1000,
    "noncharacter": "\uffff\U0010ffff",
    "text of a surrogate": "\\ud800",
    "byte order mark": "\ufeffx",
    "quotes": "\"'`\\",
    "braces": "{x} {0} %s %(x)s ${x}",
    "HTML": "<script>x</script>",
    **{
        f"path {text}": text
        for text in (
            *("..", "../..", ".", "/", "~", "~root", "a/b", "/dev/zero", "/dev/stdin", "/dev/ptmx"),
            *("/proc/self/mem", "/proc/self/fd/0", "loop", "pipe", "text.txt/x", "*", "**", "["),
            *("nowhere", "C:\\x", "file:///etc/passwd", "/" * 5000, "a/" * 3000),
        )
    },
    "long name": "x" * 300,
    **{
        f"expression {text[:20]}": text
        for text in (
            *("1/0", "0/0", "n_layer / 0", "n_layer % 0", "9**9**9**9", "2**-1074", "(-8)**0.5"),
            *("n_layer", "n_embd", "seq_len", "tokens_per_step", "parameters", "2 * n_layer"),
            *("__import__('os')", "n_layer.real", "lambda: 0", "[1][0]", "1 if n_layer else 2"),
            *("(" * 1000, "-" * 5000 + "1", "1" * 5000, "1 +", "~1", "n_layer @ 2", "True", "1j"),
            *("1e999", "-inf", "n_layer == 1", "n_layer := 2", "'a' * 9999999999", "1;2", "№"),
            *("+".join(["1"] * 5000), "0 * parameters", "-n_layer", "1e-3 / n_layer"),
        )
    },
}
NESTED = {
    **{text: text for text in ("true", "false", "[]", "{}", "[[]]", "[[[1]]]", "[{}]", "[{}, {}]")},
    **{
        text: text
        for text in (
            *("1979-05-27", "1979-05-27T07:32:00Z", "1979-05-27 07:32:00.999999", "07:32:00"),
            *("0001-01-01", "9999-12-31T23:59:59-23:59", "[1979-05-27]", '[1, "a"]', "[1, 1]"),
            *('["a", "a"]', "[nan, nan]", "[true, 1]", "[0, -0]", '[""]', "[1, 1.0]", "[[1], [1]]"),
            *("{ a = 1 }", '{ "" = 1 }', '{ "a.b" = 1 }', "{ variant = 1 }", "{ variant = [] }"),
            *('{ variant = "mha" }', '{ variant = "mha", label = [] }', "{ label = {} }"),
            *("{ value = 1 }", "{ value = [] }", "{ value = { a = [] } }", "{ low = 1, high = 2 }"),
            *('{ low = "a", high = nan }', '{ "train.lr" = [] }', "{ train.lr = {} }"),
            *("{ model = 1 }", "{ model.n_layer = { a = 1 } }", "{ path = 1, weight = [] }"),
            *('{ "\\u001b[31m" = 1 }', '{ "a\\nb" = 1 }', '{ "\\u0000" = 1 }', "[[], {}, 1]"),
        )
    },
    "deep list": "[" * 30 + "]" * 30,
    "list in lists": "[" * 19 + "1" + "]" * 19,
    "deeper list": "[" * 500 + "]" * 500,
    "deep table": "{ a = " * 30 + "1" + " }" * 30,
    "long list": f"[{'1, ' * 20_000}]",
    "long list of texts": "[" + '"x", ' * 20_000 + "]",
    "long key": f'{{ "{LONG}" = 1 }}',
    "many keys": "{" + ", ".join(f"k{n} = 1" for n in range(500)) + "}",
}


def toml_text(text: str) -> str:
    """Return a text as TOML, with escapes of all that is not printable."""
    escaped = "".join(
        char if char.isprintable() and char not in '"\\' else f"\\U{ord(char):08x}" for char in text
    )
    return f'"{escaped}"'


VALUES = NUMBERS | {name: toml_text(text) for name, text in TEXTS.items()} | NESTED


@dataclasses.dataclass(frozen=True)
class Place:
    """A place of a study for a value: the keys of the study, VALUE in one; None: no valid value.

    Errors contain one of `names`. A value at the place has the type `annotation`.
    """

    keys: dict[str, str]
    names: tuple[str, ...]
    annotation: Any


RATE = '"train.lr"'
BOTH = "[1e-3, 2e-3]"
LISTED = f'{{ variant = "mha" }}, {{ variant = "gqa", n_kv_head = 2 }}, {{ {RATE} = 1 }}'
MORE_PLACES = {
    "exclude[0].attention": ({"exclude": '[{ attention = VALUE, reason = "r" }]'}, None),
    "exclude[0].train.lr": (
        {f"axes.{RATE}": BOTH, "exclude": f'[{{ {RATE} = VALUE, reason = "r" }}]'},
        float | list[float],
    ),
    "exclude[0].reason": ({"exclude": '[{ attention = "mha", reason = VALUE }]'}, None),
    "exclude[0]": ({"exclude": "[VALUE]"}, None),
    "include[0].attention": ({"include": "[{ attention = VALUE }]"}, dict),
    "include[0].train.lr": ({f"axes.{RATE}": BOTH, "include": f"[{{ {RATE} = VALUE }}]"}, float),
    "include[0]": ({"include": "[VALUE]"}, dict),
    "axes.attention[1]": ({"axes.attention": '["mha", VALUE]'}, dict),
    "axes.attention[0].variant": ({"axes.attention": "[{ variant = VALUE }]"}, None),
    "axes.attention[0].label": (
        {"axes.attention": '[{ variant = "mha", label = VALUE }]'},
        str,
    ),
    "axes.train.lr[1]": ({f"axes.{RATE}": "[1e-3, VALUE]"}, float | dict),
    "axes.train.lr[1].value": ({f"axes.{RATE}": "[1e-3, { value = VALUE }]"}, float),
    "axes.train.lr[1].label": (
        {f"axes.{RATE}": "[1e-3, { value = 2e-3, label = VALUE }]"},
        str,
    ),
    "axes.size[1].label": (
        {"axes.size": '[{ label = "S", "model.n_layer" = 1 }, { label = VALUE, model.n_layer=2 }]'},
        str,
    ),
    "axes.size[1].model.n_layer": (
        {
            "axes.size": '[{ label = "S", model.n_layer = 1 }, '
            '{ label = "M", model.n_layer = VALUE }]'
        },
        int,
    ),
    "axes.VALUE": ({"axes": '{ attention = ["mha"], size = VALUE }'}, None),
    "study.baseline.attention": ({"study.baseline.attention": "VALUE"}, None),
    "study.baseline.train.lr": (
        {f"axes.{RATE}": BOTH, f"study.baseline.{RATE}": "VALUE"},
        float,
    ),
    "init.from_run.attention": ({"init.from_run.attention": "VALUE"}, dict),
    "init.from_run": ({"init.from_run": "VALUE"}, dict),
    **{
        f"tune.axes.train.lr.{key}": (
            {f"tune.axes.{RATE}": table, "tune.seeds": "[100]", "tune.budget": "4"},
            kind,
        )
        for key, table, kind in (
            ("low", "{ low = VALUE, high = 1e-2 }", float),
            ("high", "{ low = 1e-4, high = VALUE }", float),
            ("log", "{ low = 1e-4, high = 1e-2, log = VALUE }", bool),
        )
    },
    **{
        f"data.corpus[0].{key}": (
            {
                "data.corpus": "[{ "
                + ", ".join(
                    f"{name} = {text}"
                    for name, text in {"path": '"text.txt"', "weight": "1", key: "VALUE"}.items()
                )
                + " }]"
            },
            field.annotation,
        )
        for key, field in CorpusPart.model_fields.items()
    },
}


def is_record(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def annotation_of(key: str) -> Any:
    """Return the type of a key of the schema; of an axis, that of its elements in a list."""
    section, _, rest = key.partition(".")
    if section == "axes" or key.startswith("tune.axes."):
        name = rest.removeprefix("axes.") if section == "tune" else rest
        if name in AXES or key == "axes":
            return dict if key == "axes" else list
        return list[annotation_of(name) | dict] | dict  # a range, of a tuned setting
    if key.startswith("init.from_run."):
        return annotation_of(rest.removeprefix("from_run."))
    record: Any = StudyFile
    parts = key.split(".")
    if section in SECTIONS:
        record, parts = SECTIONS[section], parts[1:]
    found: Any = dict
    for part in parts:
        field = record.model_fields[part]
        found = field.annotation
        records = [other for other in (found, *get_args(found)) if is_record(other)]
        record = records[0] if records else None
    return found


def places() -> dict[str, Place]:
    found = {}
    for key in FIELDS:
        names = (key.rpartition(".")[2], key)
        found[key] = Place(with_companions(key) | {key: "VALUE"}, names, annotation_of(key))
    for key, (keys, annotation) in MORE_PLACES.items():
        changed = {
            other: text
            for other, text in STUDY.items()
            if not any(new == other or other.startswith(f"{new}.") for new in keys)
        }
        names = (key.partition("[")[0].split(".")[0], "train.lr", "size")
        found[key] = Place(changed | keys, names, annotation)
    for axis in AXES:
        for variant in registry.files(axis):
            options = registry.load(axis, variant).Options
            types = get_type_hints(options)
            for field in dataclasses.fields(options):
                given = {
                    other.name: "2"
                    for other in dataclasses.fields(options)
                    if other.default is dataclasses.MISSING
                } | {field.name: "VALUE"}
                stated = ", ".join(f"{name} = {text}" for name, text in given.items())
                element = f'{{ variant = "{variant}", label = "x", {stated} }}'
                found[f"axes.{axis}[{variant}].{field.name}"] = Place(
                    STUDY | {f"axes.{axis}": f"[{element}]"},
                    (field.name, axis, "train."),
                    types[field.name],
                )
    return found


PLACES = places()


def conforms(value: object, annotation: Any) -> bool:
    """Return whether a value of TOML may be of a type, whatever its bounds."""
    origin = get_origin(annotation)
    if annotation is Any:
        return True
    if annotation is None or annotation is type(None):
        return False
    if origin is Annotated:
        return conforms(value, get_args(annotation)[0])
    if origin in (Union, UnionType):
        return any(conforms(value, other) for other in get_args(annotation))
    if origin is Literal:
        return any(value == other and type(value) is type(other) for other in get_args(annotation))
    if origin in (list, tuple):
        inner = get_args(annotation)[0]
        return isinstance(value, list) and all(conforms(item, inner) for item in value)
    if origin is dict or is_record(annotation):
        return isinstance(value, dict)
    if annotation is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and abs(value) < 1e101  # false for a NaN
    if annotation is int:
        return type(value) is int and abs(value) < 2**63
    return type(value) is annotation


# Texts that are valid for a number of a setting, and values with a form of their own.
EXPRESSIONS = {
    *("n_layer", "n_embd", "seq_len", "tokens_per_step", "parameters", "2 * n_layer"),
    *("1e-3 / n_layer", "0 * parameters", "+".join(["1"] * 5000)),
}
TINY = {"2**-1074"}  # of a count of steps, which is rounded up
COUNTS = ("train.lr", "train.steps", "train.warmup_steps", "train.eval_every")
TIMES = ("launch.slurm.time",)  # a text, minutes, or a time of day


def may_be_valid(place: Place, key: str, text: str) -> bool:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return False
    if key in TIMES:
        return isinstance(value, int | str | datetime.time) and not isinstance(value, bool)
    if isinstance(value, str) and ("\0" in value):
        return False
    if isinstance(value, str) and value in EXPRESSIONS | (TINY if key.endswith(COUNTS) else set()):
        return True
    return place.annotation is not None and conforms(value, place.annotation)


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Return a function that writes a study of some keys next to hostile paths."""
    folder = tmp_path_factory.mktemp("values")
    (folder / "text.txt").write_text("To be, or not to be, that is the question.\n" * 40)
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    before = os.getcwd()

    def write_study(keys, value=None):
        path = folder / "study.toml"
        text = "\n".join(f"{key} = {text}" for key, text in keys.items())
        path.write_text(text if value is None else text.replace("VALUE", value))
        return "study.toml"

    def refuse(*_, **__):
        raise AssertionError("a process was started")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ABLATIONS_CACHE", str(folder / "cache"))
        patch.setattr(subprocess, "Popen", refuse)
        os.chdir(folder)
        yield write_study
        os.chdir(before)
    names = {path.name for path in folder.iterdir()}
    assert names <= {"text.txt", "loop", "pipe", "study.toml", "cache"}


COMMANDS = (("list",), ("run", "--dry-run"))


def check(path, case, names, may_be_accepted):
    """Check that each command accepts a study, or refuses it with one of these names."""
    for command, *flags in COMMANDS:
        code, out, err = call(command, path, *flags)
        assert code in (0, 2), (case, err)
        assert is_clean(out) and is_clean(err), (case, err)
        if code == 2:
            assert len(err.splitlines()) <= 50 and len(err) < 8000, (case, len(err))
            assert any(name in err for name in names), (case, err[:1000])
        else:
            assert may_be_accepted, (case, "is accepted", out[:500])
            assert out, (case, "prints nothing")


def test_each_place_of_a_study_can_be_tried():
    """Without places, the tests of values would pass without a check."""
    assert {"train.lr", "launch.slurm.time", "axes.attention[gqa].n_kv_head"} < set(PLACES)
    assert len(PLACES) > 250 and len(VALUES) > 150
    assert all("VALUE" in "".join(place.keys.values()) for place in PLACES.values())
    assert typing.get_type_hints(Place)


CASES = [f"{place} = {value}" for place in PLACES for value in VALUES]


@pytest.mark.parametrize("case", sample(CASES, n=30))
def test_a_value_is_valid_or_named(write, case):
    key, name = case.split(" = ", 1)
    place = PLACES[key]
    path = write(place.keys, VALUES[name])
    may_be_accepted = may_be_valid(place, key, VALUES[name])
    # A valid value may lead to an entry that is not possible, or to a package that is missing.
    names = (*place.names, "tune.", "needs the package") if may_be_accepted else place.names
    if name == "deeper list":  # the parser gives up
        names = ("nested too deeply",)
    check(path, case, names, may_be_accepted)


PLAIN = "\n".join(f"{key} = {text}" for key, text in STUDY.items()).encode()
FILES = {  # the bytes of a study file, and whether it is valid
    "empty": (b"", False),
    "blank": (b" \n\t\r\n", False),
    "comment": (b"# nothing", False),
    "no TOML": (b"study: {name: s}\n", False),
    "JSON": (b'{"study": {"name": "s"}}', False),
    "a key twice": (PLAIN + b"\ntrain.steps = 5", False),
    "a table twice": (PLAIN + b"\n[train]\nlr = 1e-3", False),
    "a table and an array": (PLAIN + b"\n[[train]]\nlr = 1e-3", False),
    "an array that is a table": (PLAIN + b"\n[exclude]\nreason = 'x'", False),
    "an inline table that grows": (b"train = { lr = 1 }\ntrain.steps = 3\n" + PLAIN, False),
    "a quoted key twice": (PLAIN + b'\n"train"."steps" = 5', False),
    "a key of escapes": (PLAIN + b'\n"\\u0074rain".steps = 5', False),
    "a key of controls": (PLAIN + b'\n"\\u001b[31m" = 5', False),
    "a key of lines": (PLAIN + b'\n"a\\nb" = 5', False),
    "an empty key": (PLAIN + b'\n"" = 5', False),
    "a long key": (PLAIN + b"\n" + b"k" * 100_000 + b" = 5", False),
    "many keys": (PLAIN + b"".join(b"\nk%d = 5" % n for n in range(5_000)), False),
    "many tables": (PLAIN + b"".join(b"\n[k%d]" % n for n in range(5_000)), False),
    "many rules": (PLAIN + b"\n[[exclude]]\n" * 2_000, False),
    "an invalid escape": (PLAIN + b'\ntrain.device = "\\q"', False),
    "a lone surrogate": (PLAIN + b'\ndata.val = "\\ud800"', False),
    "a control character": (PLAIN + b'\ndata.val = "\x01"', False),
    "an open text": (PLAIN + b'\ndata.val = "', False),
    "an open list": (PLAIN + b"\ndata.val = [", False),
    "two values": (PLAIN + b"\ndata.val = 1 2", False),
    "no value": (PLAIN + b"\ndata.val =", False),
    "a bare carriage return": (PLAIN.replace(b"\n", b"\r"), True),
    "lines of Windows": (PLAIN.replace(b"\n", b"\r\n"), True),
    "no last line end": (PLAIN, True),
    "a byte order mark": (b"\xef\xbb\xbf" + PLAIN, True),
    "two byte order marks": (b"\xef\xbb\xbf" * 2 + PLAIN, False),
    "UTF-16": (PLAIN.decode().encode("utf-16"), False),
    "UTF-32": (PLAIN.decode().encode("utf-32"), False),
    "Latin-1": (PLAIN + b"\n# \xe9", False),
    "an overlong sequence": (PLAIN + b"\n# \xc0\x80", False),
    "a surrogate in UTF-8": (PLAIN + b"\n# \xed\xa0\x80", False),
    "a NUL": (PLAIN + b"\n# \0", False),
    "a long comment": (PLAIN + b"\n# " + b"x" * 10_000_000, True),
    "many blank lines": (b"\n" * 1_000_000 + PLAIN, True),
    "a long text": (PLAIN + b'\nx.val = "' + b"x" * 1_000_000 + b'"', False),
    "binary": (bytes(range(256)) * 100, False),
    "zeros": (bytes(100_000), False),
    "a deep key": (PLAIN + b"\n" + b"a." * 900 + b"a = 1", False),
    "deep lists": (PLAIN + b"\na = " + b"[" * 900 + b"]" * 900, False),
    "a text of quotes": (PLAIN + b"\na = '''" + b"'' " * 100_000, False),
}


@pytest.mark.parametrize("file", sample(FILES, n=5))
def test_a_file_is_read_or_named(write, file):
    content, is_valid = FILES[file]
    path = Path(write({}))
    path.write_bytes(content)
    check(path, file, [str(path)], is_valid)
    assert is_valid == (call("list", path)[0] == 0), file

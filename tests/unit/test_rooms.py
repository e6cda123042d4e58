"""The rules that no compiler keeps: who may call whom, functions that are not used here, every room with its README and header."""

import pathlib
import re
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MAY_CALL = {
    "base": set(),
    "index": {"base"},
    "model": {"base"},
    "loaders": {"base"},
    "retriever": {"base", "index", "model"},
    "generator": {"base", "model"},
    "api": {"base", "index", "model", "loaders", "retriever", "generator"},
    "eval": {"base", "index", "model", "loaders", "retriever", "generator", "api"},
}
UP = {("api", "eval"): {"api/cli/main.c"}}  # the command's table of names is the one place above eval
BANNED = {
    "strcpy": "cairn_buf or memcpy with a checked length",
    "strcat": "cairn_buf",
    "sprintf": "snprintf or cairn_buf_printf",
    "vsprintf": "vsnprintf",
    "gets": "getline",
    "atoi": "strtol with its end checked",
    "atol": "strtol with its end checked",
    "atof": "strtod with its end checked",
    "strtok": "strtok_r",
    "malloc": "cairn_malloc",
    "calloc": "cairn_calloc",
    "realloc": "cairn_realloc",
    "strdup": "cairn_strdup",
    "strndup": "cairn_strndup",
    "free": "cairn_free",
    "asprintf": "cairn_asprintf",
    "assert": "CAIRN_CHECK for our own state, a returned error for input",
}
# Memory that a library hands over is freed the library's way, and the line says whose it is: /* jansson's */
OWNER = re.compile(r"/\* \w+'s\b")
# The seam itself calls the real functions.
EXCEPT = {"base/alloc.c"}


def sources(room):
    return [path for suffix in ("*.c", "*.h", "*.cu") for path in (ROOT / room).rglob(suffix)]


def code_of(path):
    """The text without comments and string literals, lines kept."""
    text = path.read_text(encoding="utf-8")
    pattern = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.S)
    return pattern.sub(lambda found: "\n" * found.group().count("\n") if found.group()[0] == "/" else '""', text)


class Rooms(unittest.TestCase):
    def test_no_arrow_points_up(self):
        for room, allowed in MAY_CALL.items():
            for path in sources(room):
                name = str(path.relative_to(ROOT))
                for other in re.findall(r"#\s*include\s*[<\"]cairn/(\w+)\.h[>\"]", path.read_text(encoding="utf-8")):
                    ok = other == room or other in allowed or name in UP.get((room, other), ())
                    self.assertTrue(ok, f"{name} includes cairn/{other}.h: {room} may call {sorted(allowed) or 'nobody'}")

    def test_each_room_has_its_readme_and_one_public_header(self):
        for room in MAY_CALL:
            self.assertTrue((ROOT / room / "README.md").exists(), f"{room}/README.md")
            headers = sorted(path.name for path in (ROOT / room / "include/cairn").iterdir())
            self.assertEqual(headers, [f"{room}.h"])

    def test_banned_functions_are_not_called(self):
        call = re.compile(r"(?<![\w.>])(" + "|".join(BANNED) + r")\s*\(")
        for room in MAY_CALL:
            for path in sources(room):
                name = str(path.relative_to(ROOT))
                if name in EXCEPT:
                    continue
                raw = path.read_text(encoding="utf-8").split("\n")
                for number, line in enumerate(code_of(path).split("\n"), 1):
                    found = call.search(line)
                    if found and not OWNER.search(raw[number - 1]):
                        self.fail(f"{name}:{number}: {found.group(1)}: use {BANNED[found.group(1)]}")

    def test_no_path_of_one_machine(self):
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
        for name in filter(None, listed.decode().split("\0")):
            text = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
            for word in (b"/work" + b"/main", b"/work" + b"/shared", b"/ro" + b"ot/"):
                self.assertFalse(word in text, f"{name} names {word.decode()}")


if __name__ == "__main__":
    sys.exit(unittest.main(verbosity=1))

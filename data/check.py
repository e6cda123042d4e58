#!/usr/bin/env python3
"""Checks the knowledge base, the access rules and the judged questions in this folder.

Every failure is one line on stdout; the last line is a summary. Exit 1 if anything failed."""
import collections
import fnmatch
import html
import json
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
KB = os.path.join(HERE, "kb")
FORMATS = {".md": "markdown", ".html": "html", ".txt": "text"}
MIN_DOCUMENTS, MIN_FORMAT_SHARE = 64, {"markdown": 0.45, "html": 0.20, "text": 0.10}
MIN_WORDS, MAX_WORDS = 150, 700
MIN_QUESTIONS, MIN_OPEN, MIN_NONE, MIN_GROUP, MIN_PARAPHRASE = 130, 80, 30, 20, 25
MIN_PER_FORMAT = 12
MAX_SPAN = 700
MAX_PARAPHRASE_OVERLAP = 0.30
KINDS = ("fact", "table", "version", "para", "two", "group-hr", "group-finance", "group-legal", "none")
FIELDS = {"id": str, "question": str, "answers": list, "spans": list, "groups": list, "answerable": bool}
INLINE = re.compile(r"</?(?:a|abbr|b|code|em|i|kbd|small|span|strong|sub|sup)\b[^>]*>", re.I)

problems = []


def fail(where, what):
    problems.append(f"{where}: {what}")


def plain(raw, name):
    """The text a reader sees, case-folded and with single spaces: no tags, comments, entities or Markdown signs."""
    if name.endswith(".html"):
        raw = re.sub(r"<!--.*?-->|<script.*?</script>|<style.*?</style>", " ", raw, flags=re.S)
        raw = re.sub(r"<[^>]+>", " ", INLINE.sub("", raw))
        raw = html.unescape(raw)
    elif name.endswith(".md"):
        raw = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", raw)
        raw = re.sub(r"[*`|]", " ", raw)
    return " ".join(raw.split()).casefold()


def says(text, answer):
    """Whether the answer stands in the text as whole words and whole numbers."""
    found = re.escape(" ".join(answer.split()).casefold())
    return re.search(r"(?<![\w])(?<!\d[.,])" + found + r"(?!\w)(?![.,]\d)", text) is not None


def words(text):
    return {w[:5] for w in re.findall(r"\w+", text.casefold()) if len(w) > 3}


def load_documents():
    documents = {}
    for folder, _, files in sorted(os.walk(KB)):
        for name in sorted(files):
            path = os.path.relpath(os.path.join(folder, name), KB).replace(os.sep, "/")
            if path == "acl.json":
                continue
            if os.path.splitext(name)[1] not in FORMATS:
                fail(path, "neither .md, .html nor .txt")
                continue
            with open(os.path.join(folder, name), "rb") as file:
                raw = file.read()
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                fail(path, f"not UTF-8: {error}")
                continue
            documents[path] = (raw, plain(text, path))
            count = len(documents[path][1].replace("|", " ").split())
            if not MIN_WORDS <= count <= MAX_WORDS:
                fail(path, f"{count} words, want {MIN_WORDS} to {MAX_WORDS}")
            if path.endswith(".md"):
                for link in re.findall(r"\]\(([^)#]+)\)", text):
                    target = os.path.normpath(os.path.join(folder, link))
                    if "://" not in link and not os.path.isfile(target):
                        fail(path, f"link to {link}, which is not there")
    return documents


def load_acl(documents):
    with open(os.path.join(KB, "acl.json"), encoding="utf-8") as file:
        acl = json.load(file)
    groups, rules = acl["groups"], acl["rules"]
    if "everyone" not in groups or len(groups) < 4 or len(set(groups)) != len(groups):
        fail("acl.json", "want everyone and three more groups, each once")
    used = [0] * len(rules)
    readers = {}
    for path in documents:
        for number, rule in enumerate(rules):
            if fnmatch.fnmatchcase(path, rule["path"]):
                used[number] += 1
                readers[path] = frozenset(rule["allow"])
                break
        else:
            readers[path] = frozenset()
            fail(path, "no rule in acl.json names it, so nobody may read it")
    for number, rule in enumerate(rules):
        if not rule["allow"] or not set(rule["allow"]) <= set(groups):
            fail("acl.json", f"rule {rule['path']}: allows {rule['allow']}")
        if not used[number]:
            fail("acl.json", f"rule {rule['path']} is the first match of no document")
    return set(groups), readers


def check_span(where, span, documents):
    """The plain text of a span, or None when it is wrong."""
    path, start, end = span.get("document"), span.get("start"), span.get("end")
    if path not in documents or type(start) is not int or type(end) is not int:
        fail(where, f"span {span} names no document or no offsets")
        return None
    raw = documents[path][0]
    if not 0 <= start < end <= len(raw) or end - start > MAX_SPAN:
        fail(where, f"{path} [{start}, {end}): outside of the {len(raw)} bytes or longer than {MAX_SPAN}")
        return None
    try:
        text = raw[start:end].decode("utf-8")
    except UnicodeDecodeError:
        fail(where, f"{path} [{start}, {end}): cuts a character")
        return None
    if text != text.strip():
        fail(where, f"{path} [{start}, {end}): begins or ends with white space")
    return plain(text, path)


def check_answers(where, kind, question, texts):
    answers = question["answers"]
    if any(type(a) is not str or not a.strip() for a in answers):
        fail(where, "an answer is empty or no string")
        return
    if kind == "two":
        seen = " ".join(texts)
        missing = [w for w in re.findall(r"\w[\w.,-]*\w|\w", answers[0].casefold())
                   if w not in ("and", "to", "from") and not says(seen, w)]
        if missing:
            fail(where, f"{missing} of {answers[0]!r} in none of its spans")
        return
    for text in texts:
        if not any(says(text, a) for a in answers):
            if kind == "para":
                print(f"note: {where}: no answer stands verbatim in {text!r}")
            else:
                fail(where, f"no answer of {answers} in {text!r}")


def check_readers(where, kind, question, documents, readers):
    groups = set(question["groups"])
    paths = {s["document"] for s in question["spans"]}
    if not kind.startswith("group-"):
        if groups != {"everyone"}:
            fail(where, f"asked by {sorted(groups)}, want everyone alone")
        for path in paths:
            if "everyone" not in readers[path]:
                fail(where, f"{path} is not open to everyone")
        return
    group = kind[len("group-"):]
    if groups != {"everyone", group}:
        fail(where, f"asked by {sorted(groups)}, want everyone and {group}")
    for path in paths:
        if readers[path] != {group}:
            fail(where, f"{path} is not restricted to {group}")
    for path, (_, text) in documents.items():
        if readers[path] != {group}:
            for answer in question["answers"]:
                if says(text, answer):
                    fail(where, f"the answer {answer!r} also stands in {path}")


def main():
    documents = load_documents()
    groups, readers = load_acl(documents)
    formats = collections.Counter(FORMATS[os.path.splitext(p)[1]] for p in documents)
    if len(documents) < MIN_DOCUMENTS:
        fail("kb", f"{len(documents)} documents, want {MIN_DOCUMENTS}")
    for name, share in MIN_FORMAT_SHARE.items():
        if formats[name] < share * len(documents):
            fail("kb", f"{formats[name]} documents of {name}, want {share:.0%}")

    kinds, per_format, ids, asked = collections.Counter(), collections.Counter(), set(), set()
    overlaps = []
    with open(os.path.join(HERE, "questions.jsonl"), encoding="utf-8") as file:
        lines = file.read().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            question = json.loads(line)
        except ValueError as error:
            fail(f"questions.jsonl:{number}", f"not JSON: {error}")
            continue
        where = str(question.get("id", f"line {number}"))
        if set(question) != set(FIELDS) or any(type(question[k]) is not t for k, t in FIELDS.items()):
            fail(where, f"wants exactly the fields {', '.join(FIELDS)} with their types")
            continue
        kind = where.rpartition("-")[0]
        if kind not in KINDS:
            fail(where, "the id is not KIND-NUMBER")
        if where in ids or question["question"] in asked:
            fail(where, "id or question is there twice")
        ids.add(where)
        asked.add(question["question"])
        kinds[kind] += 1
        if not set(question["groups"]) <= groups:
            fail(where, f"unknown group in {question['groups']}")
        if question["answerable"] != (kind != "none"):
            fail(where, "answerable does not fit its kind")
        if kind == "none":
            if question["answers"] or question["spans"]:
                fail(where, "has no answer, so wants neither answers nor spans")
        elif not question["answers"] or not question["spans"]:
            fail(where, "wants answers and spans")
        texts = [check_span(where, s, documents) for s in question["spans"]]
        if None in texts:
            continue
        check_answers(where, kind, question, texts)
        check_readers(where, kind, question, documents, readers)
        for path in {s["document"] for s in question["spans"]}:
            per_format[FORMATS[os.path.splitext(path)[1]]] += 1
        if kind == "para" and texts:
            mine = words(question["question"])
            overlaps.append(len(mine & words(" ".join(texts))) / max(1, len(mine)))

    grouped = sum(n for k, n in kinds.items() if k.startswith("group-"))
    opened = len(lines) - grouped - kinds["none"]
    for what, have, want in (("questions", len(lines), MIN_QUESTIONS), ("for everyone", opened, MIN_OPEN),
                             ("without an answer", kinds["none"], MIN_NONE), ("for one group", grouped, MIN_GROUP),
                             ("paraphrased", kinds["para"], MIN_PARAPHRASE)):
        if have < want:
            fail("questions.jsonl", f"{have} {what}, want {want}")
    for name in FORMATS.values():
        if per_format[name] < MIN_PER_FORMAT:
            fail("questions.jsonl", f"{per_format[name]} on {name} documents, want {MIN_PER_FORMAT}")
    overlap = sum(overlaps) / max(1, len(overlaps))
    if overlap > MAX_PARAPHRASE_OVERLAP:
        fail("questions.jsonl", f"paraphrased questions share {overlap:.0%} of their words with their spans")

    for problem in problems:
        print(problem)
    print(f"data: {len(documents)} documents ({', '.join(f'{n} {f}' for f, n in formats.most_common())}), "
          f"{len(lines)} questions ({opened} for everyone of which {kinds['para']} paraphrased, {grouped} for one group, "
          f"{kinds['none']} without an answer), {len(problems)} failures")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

# ruff: noqa: I001, PLR0915, UP029
def _make_editor():
    """`str_replace_editor`: views and edits text files, byte for byte.

    Runs in the notebook's kernel; this text stands in the setup cell. Everything it needs is bound
    inside, builtins too, so that no later cell (`os = 5`, `open = None`) can break it.
    """
    import errno
    import itertools
    import os
    import stat
    from builtins import (
        Exception, OSError, UnicodeEncodeError, ValueError, all, any, enumerate, int, isinstance,
        len, list, max, min, next, open, ord, print, repr, sorted, str, sum, tuple, type,
    )  # fmt: skip

    VIEW_CHARS, SNIPPET_CHARS, SNIPPET_LINES, FOLDER_ENTRIES = 10_000, 4_000, 4, 200
    LARGE = 10_000_000  # bytes; of a larger file only what is shown is read

    class EditorError(Exception):
        """A call that cannot be carried out. Jupyter shows it as one line."""

        def _render_traceback_(self):
            return [f"EditorError: {self}"]

    # -- files: bytes <-> text without loss, whole or not at all

    def check_file(path):
        if not os.path.lexists(path):
            raise EditorError(f"there is no file {show(path)}")
        if os.path.isdir(path):
            raise EditorError(f"{show(path)} is a folder")
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise EditorError(f"{show(path)} is not a regular file")

    def read(path):
        check_file(path)
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "surrogateescape")

    def write(path, text):
        """In one step where the folder allows it: a kill leaves the old text or the new one."""
        data = text.encode("utf-8", "surrogateescape")
        path = os.path.realpath(path)  # a symlink stays, its target is written
        old = os.stat(path) if os.path.exists(path) else None
        if not old or old.st_nlink == 1:  # a new file would cut off the other hard links
            temporary = os.path.join(os.path.dirname(path), f".lis-{os.urandom(6).hex()}")
            try:
                fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                with open(fd, "wb") as file:
                    file.write(data)
                    if old:
                        os.fchmod(fd, stat.S_IMODE(old.st_mode))
                return os.replace(temporary, path)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise  # a plain write would lose the old text as well
            finally:
                if os.path.lexists(temporary):
                    os.unlink(temporary)
        with open(path, "wb") as file:
            file.write(data)

    # -- text: lines end at \n alone, as grep and cat count them

    def count_lines(text):
        return text.count("\n") + (text != "" and not text.endswith("\n"))

    def line_end(text):
        """CRLF if every line ends so."""
        return "\r\n" if "\n" in text and text.count("\n") == text.count("\r\n") else "\n"

    def mixed_note(new, text):
        if "\n" in new and line_end(new) != "\r\n" == line_end(text):
            return "\nNote: the file's lines end in CRLF, those of the new text in LF."
        return ""

    def show(name):
        return name if name.isprintable() else repr(name)

    def plural(n, noun):
        return f"{n:,} {noun}" + ("" if n == 1 else "s")

    def numbered(lines, first, limit):
        """The lines that fit in `limit` characters, numbered; and how many they are."""
        shown, size = [], 0
        for number, line in enumerate(lines, first):
            size += len(line) + 8
            if size > limit and shown:
                break
            shown.append(f"{number:6d}\t{line}"[:limit])
        return "\n".join(shown), len(shown)

    def edited(path, text, start, end, note):
        """Save; the answer shows the lines around text[start:end], which is new."""
        write(path, text)
        first = max(text.count("\n", 0, start) + 1 - SNIPPET_LINES, 1)
        last = text.count("\n", 0, max(end - 1, start)) + 1 + SNIPPET_LINES
        shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").split("\n")
        shown = [line.rstrip("\r") for line in shown[first - 1 : min(last, count_lines(text))]]
        body, n = numbered(shown, first, SNIPPET_CHARS)
        more = f"\n[... {plural(len(shown) - n, 'more line')}]" if n < len(shown) else ""
        return f"edited {show(path)}\n{body or '(the file is empty now)'}{more}{note}"

    # -- the four commands; each returns what is printed

    def view(path, view_range):
        check_file(path)
        first, last = 1, -1
        if view_range:
            is_pair = isinstance(view_range, (list, tuple)) and len(view_range) == 2
            if not is_pair or not all(type(n) is int for n in view_range):
                raise EditorError("view_range must be two integers, such as [1, 40]")
            first, last = view_range
            if first < 1 or (last < first and last != -1):
                raise EditorError(
                    f"view_range [{first}, {last}] is wrong: lines count from 1, the end is not "
                    f"before the start, and -1 is the end of the file"
                )
        size, taken, total = os.path.getsize(path), [], None
        room = 5 * VIEW_CHARS  # bytes: more than the characters that are shown can take
        with open(path, "rb") as file:
            lines = read_lines(file)
            before = sum(1 for _ in itertools.islice(lines, first - 1))
            for line in itertools.islice(lines, None if last == -1 else last - first + 1):
                taken.append(line)
                room -= len(line) + 32  # the number's place, counted like the text
                if room < 0:
                    break
            if size <= LARGE:
                total = before + len(taken) + sum(1 for _ in lines)
        if not taken and before:
            raise EditorError(f"line {first} is past the end, after {plural(before, 'line')}")
        if not taken:
            return f"{show(path)} is empty"
        if any(b"\0" in line for line in taken):
            raise EditorError(f"{show(path)} is binary; look at it in bash, with file or xxd")
        texts = [line.decode("utf-8", "replace").rstrip("\r\n") for line in taken]
        body, n = numbered(texts, first, VIEW_CHARS)
        notes = plural(size, "byte") if total is None else plural(total, "line")
        if all(line.endswith(b"\r\n") for line in taken[:-1] or taken):
            notes += ", ended by CRLF"
        if total == before + len(taken) and not taken[-1].endswith(b"\n"):
            notes += ", no newline at the end"
        if n < len(taken) or len(texts[0]) > VIEW_CHARS - 7:
            body += (
                f"\n[clipped after line {first + n - 1}: at most {VIEW_CHARS:,} characters are "
                f"shown; go on with view_range=[{first + n}, -1] or search with grep -n]"
            )
        return f"{show(path)} ({notes})\n{body}"

    def read_lines(file):
        """Lines as bytes; of an endless one only the start, so that memory stays small."""
        while line := file.readline(4 * VIEW_CHARS):
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(1 << 20)
            yield line if line.endswith(b"\n") or not rest else line + b"\n"

    def view_folder(path):
        found = []

        def walk(folder, prefix, levels):
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                found.append(f"{show(prefix)} ({error.strerror})")
                return
            for entry in entries:
                if not entry.name.startswith("."):
                    name = prefix + entry.name
                    found.append(show(name) + ("/" if entry.is_dir() else ""))
                    if levels > 1 and entry.is_dir(follow_symlinks=False):
                        walk(entry.path, name + "/", levels - 1)

        walk(path, "", 2)
        more = len(found) - FOLDER_ENTRIES
        body = "\n".join(found[:FOLDER_ENTRIES]) or "(nothing)"
        tail = f"\n[... {more:,} more]" if more > 0 else ""
        return f"{show(path)} (two levels, hidden entries left out)\n{body}{tail}"

    def create(path, file_text):
        if file_text is None:
            raise EditorError("create needs file_text")
        old = count_lines(read(path)) if os.path.exists(path) else None
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write(path, file_text)
        lines = plural(count_lines(file_text), "line")
        if old is None:
            return f"created {show(path)} ({lines})"
        return f"replaced the existing file {show(path)} ({plural(old, 'line')}) with {lines}"

    def str_replace(path, old_str, new_str):
        if not old_str:
            raise EditorError("str_replace needs old_str, the text to replace")
        new_str = new_str or ""
        if old_str == new_str:
            raise EditorError("old_str and new_str are the same; nothing would change")
        text = read(path)
        places, note = find_all(text, old_str), mixed_note(new_str, text)
        if not places and "\n" in old_str and line_end(text) == "\r\n":
            old_str = old_str.replace("\r\n", "\n").replace("\n", "\r\n")
            new_str = new_str.replace("\r\n", "\n").replace("\n", "\r\n")
            places = find_all(text, old_str)
            note = "\nNote: the file's lines end in CRLF; the new text was written so too."
        if not places:
            raise EditorError(f"old_str does not occur in {show(path)}. {nearest(text, old_str)}")
        if len(places) > 1:
            lines = ", ".join([str(text.count("\n", 0, place) + 1) for place in places[:10]])
            raise EditorError(
                f"old_str occurs more than once in {show(path)}, at lines {lines}"
                f"{', ...' if len(places) > 10 else ''}; add lines around it until it is unique"
            )
        start = places[0]
        text = text[:start] + new_str + text[start + len(old_str) :]
        return edited(path, text, start, start + len(new_str), note)

    def find_all(text, part):
        """The first places of `part`, overlapping ones too, for they are ambiguous as well."""
        places, place = [], text.find(part)
        while place >= 0 and len(places) < 11:
            places.append(place)
            place = text.find(part, place + 1)
        return places

    def nearest(text, old_str):
        def key(line):
            return " ".join(line.split())

        first = next((line for line in old_str.split("\n") if line.strip()), None)
        for number, line in enumerate(text.split("\n"), 1):
            if first and key(first) in key(line):
                how = "" if first.rstrip("\r") in line else " with other whitespace"
                return f"Its first line is at line {number}{how}; view that part, copy it exactly"
        return "Not even its first line does; view the file and copy the text exactly"

    def insert(path, insert_line, new_str):
        """Whole lines: new_str gets a line end if it has none, and so does a last line before it.

        Only where new_str becomes the end of a file that had no line end there, it gets none.
        """
        if type(insert_line) is not int or new_str is None:
            raise EditorError("insert needs insert_line (0 is the top of the file) and new_str")
        text = read(path)
        total = count_lines(text)
        if not 0 <= insert_line <= total:
            raise EditorError(
                f"insert_line must be from 0 to {total}, the file's lines, not {insert_line}"
            )
        at = 0
        for _ in itertools.repeat(None, insert_line):
            at = text.find("\n", at) + 1 or len(text)
        before, added, end = text[:at], new_str, line_end(text)
        if before and not before.endswith("\n"):
            before += end
        elif text and not new_str.endswith("\n"):
            added += end
        note = mixed_note(new_str, text)
        return edited(path, before + added + text[at:], len(before), len(before + added), note)

    def str_replace_editor(
        command,
        path,
        *,
        file_text=None,
        old_str=None,
        new_str=None,
        insert_line=None,
        view_range=None,
    ):
        """View, create and edit text files. Prints the result; raises EditorError."""
        try:
            path = os.path.abspath(path)
            if command == "view":
                result = view_folder(path) if os.path.isdir(path) else view(path, view_range)
            elif command == "create":
                result = create(path, file_text)
            elif command == "str_replace":
                result = str_replace(path, old_str, new_str)
            elif command == "insert":
                result = insert(path, insert_line, new_str)
            else:
                raise EditorError("command must be view, create, str_replace or insert")
        except UnicodeEncodeError as error:
            code = ord(error.object[error.start])
            raise EditorError(
                f"path or text holds half of a surrogate pair (U+{code:04X} at character "
                f"{error.start}), which no file can hold"
            ) from None
        except (OSError, ValueError) as error:
            reason = error
            if isinstance(error, OSError):
                reason = f"{error.strerror} ({show(str(error.filename))})"
            raise EditorError(f"cannot {command} {show(path)}: {reason}") from None
        print(result)

    return str_replace_editor


str_replace_editor = _make_editor()
del _make_editor

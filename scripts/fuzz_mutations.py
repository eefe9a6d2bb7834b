"""Damages a valid file in the ways that disks, transfers, editors and enemies do."""

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]

MOST_BYTES = 4_000_000
"""No input becomes larger by being damaged."""

_INTEGERS = (0, 1, 2, 7, 8, 16, 127, 128, 255, 256, 4095, 32767, 32768, 65535, 65536,
             2**24, 2**28, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1,
             2**64 - 1)  # fmt: skip

_TOKENS = (
    b"", b"\0", b"\n", b"\r", b"\r\n", b'"', b'""', b"'", b",", b";", b"\t", b"\xef\xbb\xbf",
    b"\xff\xfe", b"\xff", b"\xed\xa0\x80", "\u2028".encode(), "\u0085".encode(), b"\x1b[31m",
    "\u202egnp.exe".encode(), "乳腺".encode(), b"nan", b"inf", b"-inf", b"NaN", b"Infinity",
    b"-1", b"0", b"1e400", b"1e-400", b"9" * 30, b"9" * 400, b"9" * 5000, b"0x" + b"f" * 5000,
    b"null", b"true", b"{}", b"[]", b"[" * 3000, b"{\"a\":" * 2000, b"()", b"(" * 150, b"None",
    b"../", b"../../etc/passwd", b"/etc/passwd", b"~/x", b"C:\\x", b"//host/x", b".", b"\\",
    b"<script>alert(1)</script>", b"<img src=x onerror=alert(1)>", b"$\\frac$", b"%s%n", b"{0}",
    b"=1+1", b"a" * 300, b"a" * 5000, b"a" * 140_000,
    b"benign", b"train", b"external/", b"image", b"label", b"copies",
)  # fmt: skip


def mutate(data: bytes, others: Sequence[bytes], random_: random.Random) -> bytes:
    """Damages a file once or a few times.

    Args:
      data: the file.
      others: valid files of the same reader, of which pieces may be taken.
      random_: decides everything.
    """
    for _ in range(random_.choice((1, 1, 1, 2, 2, 4, 8))):
        if others and random_.random() < 0.06:
            other = random_.choice(others)
            data = data[: _at(data, random_)] + other[_at(other, random_) :]
        else:
            data = random_.choice(_MUTATIONS)(data, random_)
        data = data[:MOST_BYTES]
    return data


def _at(data: bytes, random_: random.Random) -> int:
    """A place in the file, in its head half of the time: that is where the lengths are."""
    return random_.randint(0, min(len(data), 64) if random_.random() < 0.5 else len(data))


def _piece(data: bytes, random_: random.Random) -> tuple[int, int]:
    start = _at(data, random_)
    return start, min(len(data), start + random_.choice((1, 2, 4, 16, 64, 512)))


def _flip(data: bytes, random_: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random_.choice((1, 1, 2, 8, 32))):
        if changed:
            changed[min(_at(data, random_), len(changed) - 1)] ^= 1 << random_.randrange(8)
    return bytes(changed)


def _overwrite(data: bytes, random_: random.Random) -> bytes:
    start, end = _piece(data, random_)
    return data[:start] + random_.randbytes(end - start) + data[end:]


def _zero(data: bytes, random_: random.Random) -> bytes:
    start, end = _piece(data, random_)
    return data[:start] + bytes(end - start) + data[end:]


def _truncate(data: bytes, random_: random.Random) -> bytes:
    return data[: _at(data, random_)]


def _remove(data: bytes, random_: random.Random) -> bytes:
    start, end = _piece(data, random_)
    return data[:start] + data[end:]


def _repeat(data: bytes, random_: random.Random) -> bytes:
    start, end = _piece(data, random_)
    return data[:end] + data[start:end] * random_.choice((1, 1, 2, 20, 1000)) + data[end:]


def _swap(data: bytes, random_: random.Random) -> bytes:
    (a, b), (c, d) = sorted((_piece(data, random_), _piece(data, random_)))
    return data if c < b else data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _integer(data: bytes, random_: random.Random) -> bytes:
    """Writes a length or dimension that is extreme, in either byte order."""
    size = random_.choice((1, 2, 4, 8))
    order = random_.choice((">", "<"))
    value = random_.choice(_INTEGERS) % (1 << 8 * size)
    packed = struct.pack(order + {1: "B", 2: "H", 4: "I", 8: "Q"}[size], value)
    start = _at(data, random_)
    return data[:start] + packed + data[start + size :]


def _token(data: bytes, random_: random.Random) -> bytes:
    start, end = _piece(data, random_)
    if random_.random() < 0.5:
        end = start
    return data[:start] + random_.choice(_TOKENS) + data[end:]


def _cell(data: bytes, random_: random.Random) -> bytes:
    """Puts a token in the place of a word between commas, colons, brackets or line ends."""
    marks = [
        -1,
        *(i for i, byte in enumerate(data[:100_000]) if byte in b',:=[]{}()"\n '),
        len(data),
    ]
    place = random_.randrange(len(marks) - 1)
    return data[: marks[place] + 1] + random_.choice(_TOKENS) + data[marks[place + 1] :]


_MUTATIONS: tuple[Mutation, ...] = (
    _flip, _flip, _overwrite, _zero, _truncate, _remove, _repeat, _swap, _integer, _integer,
    _token, _cell,
)  # fmt: skip


# --- inside a container, whose check sums and lengths are put right again -------------------------

Inside = Callable[[bytes, Callable[[bytes], bytes], random.Random], bytes]
"""Applies a change to a part of a valid file and makes the file whole again."""


def inside_png(data: bytes, change: Callable[[bytes], bytes], random_: random.Random) -> bytes:
    """Changes one chunk; its length and check sum are right again."""
    chunks, place = [], 8
    while place < len(data):
        (size,) = struct.unpack_from(">I", data, place)
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += size + 12
    chosen = random_.randrange(len(chunks))
    kind, content = chunks[chosen]
    if kind == b"IDAT" and random_.random() < 0.5:
        content = zlib.compress(change(zlib.decompress(content)))
    else:
        content = change(content)
    chunks[chosen] = kind, content
    return data[:8] + b"".join(
        struct.pack(">I", len(content)) + kind + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )  # fmt: skip


def inside_zip(data: bytes, change: Callable[[bytes], bytes], random_: random.Random) -> bytes:
    """Changes one member; the archive is whole again, and now and then compressed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    pickles = [i for i, (name, _) in enumerate(members) if name.endswith(".pkl")]
    among = pickles if pickles and random_.random() < 0.7 else range(len(members))
    chosen = random_.choice(among)
    out = io.BytesIO()
    compression = zipfile.ZIP_DEFLATED if random_.random() < 0.1 else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", compression) as archive:
        for number, (name, content) in enumerate(members):
            archive.writestr(name, change(content) if number == chosen else content)
    return out.getvalue()


def inside_safetensors(
    data: bytes, change: Callable[[bytes], bytes], random_: random.Random
) -> bytes:
    """Changes the header, as text or, by half, one value of its JSON; its length is right again."""
    (size,) = struct.unpack_from("<Q", data)
    header = data[8 : 8 + size]
    if random_.random() < 0.5:
        content = json.loads(header)
        name = random_.choice(list(content))
        entry = content[name]
        if name == "__metadata__":
            key = random_.choice(list(entry))
            entry[key] = change(entry[key].encode()).decode("utf-8", "replace")
        elif random_.random() < 0.5:
            entry["shape"] = random_.choice(
                ([], [0], [1], [1, *entry["shape"]], entry["shape"][1:])
            )
        else:
            content[random_.choice(("params", "pos_embed", name[:-1], name + "x"))] = content.pop(
                name
            )
        header = json.dumps(content).encode()
    else:
        header = change(header)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def inside_tiff(data: bytes, change: Callable[[bytes], bytes], random_: random.Random) -> bytes:
    """Gives one tag of the first page another kind, count or value."""
    order = "<" if data[:2] == b"II" else ">"
    (first,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, first)
    place = first + 2 + 12 * random_.randrange(count)
    tag, kind, number, value = struct.unpack_from(f"{order}HHII", data, place)
    which = random_.randrange(4)
    if which == 0:
        tag = random_.choice((256, 257, 258, 259, 262, 273, 277, 278, 279, 317, 320, 322, 338, 339))
    elif which == 1:
        kind = random_.randrange(20)
    elif which == 2:
        number = random_.choice(_INTEGERS) % 2**32
    else:
        value = random_.choice((random_.choice(_INTEGERS), random_.randrange(70_000))) % 2**32
    entry = struct.pack(f"{order}HHII", tag, kind, number, value)
    return data[:place] + entry + data[place + 12 :]


_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 1e308, -1e-308, float("nan"), float("inf"),
    "", "x", "x" * 200_000, "1", "<b>", "\u2028", "\ud800", "../x", "/etc/passwd", [], [0] * 5,
    [[[]]], {}, {"a": {"b": None}}, [None, "x"],
)  # fmt: skip


def inside_json(data: bytes, change: Callable[[bytes], bytes], random_: random.Random) -> bytes:
    """Replaces, removes, renames or adds one value somewhere in an object."""
    content = node = json.loads(data)
    while True:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        key = random_.choice(keys)
        if not isinstance(node[key], dict | list) or not node[key] or random_.random() < 0.2:
            break
        node = node[key]
    which = random_.random()
    if which < 0.7:
        node[key] = random_.choice(_VALUES)
    elif which < 0.8:
        del node[key]
    elif isinstance(node, dict):
        node[random_.choice(("x", "", "\n", "<b>", "vit", key + "s"))] = node.pop(key)
    return json.dumps(content).encode()


def inside_json_line(
    data: bytes, change: Callable[[bytes], bytes], random_: random.Random
) -> bytes:
    """As `inside_json`, in one line of many."""
    lines = data.splitlines()
    chosen = random_.randrange(len(lines))
    lines[chosen] = inside_json(lines[chosen], change, random_)
    return b"\n".join(lines) + b"\n"


def inside_named(data: bytes, change: Callable[[bytes], bytes], random_: random.Random) -> bytes:
    """Changes what follows the first line, which names the file that is meant."""
    name, _, content = data.partition(b"\n")
    return name + b"\n" + change(content)

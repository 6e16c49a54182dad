# SPDX-License-Identifier: LGPL-2.1-or-later
"""A small D-Bus client of its own, for tests: it can connect as any user from one root
process (the bus looks at the effective uid of connect(2)), send what no library would
send, leave in the middle of a call, and be a service. Little endian; it can send descriptors,
and takes none.

Values: arrays are lists, a{..} dicts, structs tuples, variants (signature, value) on
the way out and plain values on the way in. A descriptor to send is an Fd; a number in its
place goes over the wire as it is."""

import os
import select
import socket
import struct
import time

PATIENCE = 60  # seconds; only what is broken takes so long, on a busy machine too
CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4
NO_REPLY, NO_AUTO_START, ALLOW_INTERACTIVE = 1, 2, 4
FIXED = {"y": ("B", 1), "b": ("I", 4), "n": ("h", 2), "q": ("H", 2), "i": ("i", 4), "u": ("I", 4),
         "x": ("q", 8), "t": ("Q", 8), "d": ("d", 8), "h": ("I", 4)}
ALIGN = {**{k: v[1] for k, v in FIXED.items()}, "s": 4, "o": 4, "g": 1, "v": 1, "a": 4, "(": 8, "{": 8}


def split(signature):
    """The complete types of a signature."""
    types, i = [], 0
    while i < len(signature):
        start = i
        while signature[i] == "a":
            i += 1
        if signature[i] in "({":
            depth = 0
            while True:
                depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(signature[i], 0)
                i += 1
                if depth == 0:
                    break
        else:
            i += 1
        types.append(signature[start:i])
    return types


class Fd:
    def __init__(self, fd):
        self.fd = fd


class Writer:
    def __init__(self):
        self.data = bytearray()
        self.fds = []

    def align(self, n):
        self.data += bytes(-len(self.data) % n)

    def put(self, t, value):
        c = t[0]
        self.align(ALIGN[c])
        if isinstance(value, Fd):
            self.fds.append(value.fd)
            value = len(self.fds) - 1
        if c in FIXED:
            self.data += struct.pack("<" + FIXED[c][0], value)
        elif c in "so":
            raw = value if isinstance(value, bytes) else value.encode()
            self.data += struct.pack("<I", len(raw)) + raw + b"\0"
        elif c == "g":
            self.data += bytes([len(value)]) + value.encode() + b"\0"
        elif c == "v":
            self.put("g", value[0])
            self.put(value[0], value[1])
        elif c == "a":
            self.put_array(t[1:], value)
        else:
            for inner, item in zip(split(t[1:-1]), value):
                self.put(inner, item)

    def put_array(self, inner, value):
        at = len(self.data)
        self.data += bytes(4)
        self.align(ALIGN[inner[0]])
        start = len(self.data)
        for item in value.items() if isinstance(value, dict) else value:
            self.put(inner, item)
        struct.pack_into("<I", self.data, at, len(self.data) - start)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def align(self, n):
        self.at += -self.at % n

    def get(self, t):
        c = t[0]
        self.align(ALIGN[c])
        if c in FIXED:
            value = struct.unpack_from("<" + FIXED[c][0], self.data, self.at)[0]
            self.at += FIXED[c][1]
            return bool(value) if c == "b" else value
        if c in "sog":
            n = self.data[self.at] if c == "g" else struct.unpack_from("<I", self.data, self.at)[0]
            self.at += 1 if c == "g" else 4
            value = bytes(self.data[self.at:self.at + n]).decode()
            self.at += n + 1
            return value
        if c == "v":
            return self.get(self.get("g"))
        if c == "a":
            return self.get_array(t[1:])
        return tuple(self.get(inner) for inner in split(t[1:-1]))

    def get_array(self, inner):
        n = struct.unpack_from("<I", self.data, self.at)[0]
        self.at += 4
        self.align(ALIGN[inner[0]])
        end, items = self.at + n, []
        while self.at < end:
            items.append(self.get(inner))
        return dict(items) if inner[0] == "{" else items


class BusError(Exception):
    def __init__(self, name, text):
        super().__init__(f"{name}: {text}")
        self.name, self.text = name, text


class Message:
    FIELDS = {1: ("path", "o"), 2: ("interface", "s"), 3: ("member", "s"), 4: ("error", "s"), 5: ("reply_to", "u"),
              6: ("destination", "s"), 7: ("sender", "s"), 8: ("signature", "g")}

    def __init__(self, kind, flags=0, body=(), raw=None, **fields):
        self.kind, self.flags, self.body, self.raw, self.serial = kind, flags, body, raw, 0
        for name, _ in self.FIELDS.values():
            setattr(self, name, fields.get(name))

    def pack(self):
        body = Writer()
        for t, value in zip(split(self.signature or ""), self.body):
            body.put(t, value)
        content = bytes(body.data) if self.raw is None else self.raw
        fields = [(code, (t, getattr(self, name))) for code, (name, t) in self.FIELDS.items() if getattr(self, name)]
        self.fds = body.fds
        if self.fds:
            fields.append((9, ("u", len(self.fds))))
        head = Writer()
        for t, value in zip("yyyyuu", (ord("l"), self.kind, self.flags, 1, len(content), self.serial)):
            head.put(t, value)
        head.put("a(yv)", fields)
        head.align(8)
        return bytes(head.data) + content

    @classmethod
    def unpack(cls, data, body_at):
        reader = Reader(data)
        _, kind, flags, _, _, serial = (reader.get(t) for t in "yyyyuu")
        message = cls(kind, flags)
        message.serial = serial
        for code, value in reader.get("a(yv)"):
            if code in cls.FIELDS:
                setattr(message, cls.FIELDS[code][0], value)
        body = Reader(data[body_at:])
        message.body = tuple(body.get(t) for t in split(message.signature or ""))
        return message


class Connection:
    """@uid: connect as this user. @serve: called with incoming method calls."""

    def __init__(self, uid=None, gid=None, serve=None, address=None):
        path = (address or os.environ["DBUS_SYSTEM_BUS_ADDRESS"]).split("unix:path=")[1].split(",")[0]
        self.socket = socket.socket(socket.AF_UNIX)
        self.uid, self.serve, self.serial, self.buffer = uid or 0, serve, 0, b""
        self.replies, self.signals = {}, []
        groups = os.getgroups()
        try:
            if uid:
                os.setgroups([])
                os.setegid(gid or uid)
                os.seteuid(uid)
            self.socket.connect(path)
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)
        self.socket.sendall(b"\0AUTH EXTERNAL " + str(self.uid).encode().hex().encode() + b"\r\n")
        assert self.socket.recv(4096).startswith(b"OK"), "the bus does not let us in"
        self.socket.sendall(b"NEGOTIATE_UNIX_FD\r\n")
        assert self.socket.recv(4096).startswith(b"AGREE"), "the bus takes no descriptors"
        self.socket.sendall(b"BEGIN\r\n")
        self.name = self.driver("Hello")[0]

    def close(self):
        self.socket.close()

    def send(self, message):
        self.serial += 1
        message.serial = self.serial
        data = message.pack()
        sent = socket.send_fds(self.socket, [data], message.fds) if message.fds else 0
        self.socket.sendall(data[sent:])
        return self.serial

    def pump(self, timeout):
        """Reads what there is; false when nothing came in time, EOFError at the end."""
        if not select.select([self.socket], [], [], max(timeout, 0))[0]:
            return False
        data = self.socket.recv(1 << 20)
        if not data:
            raise EOFError("the bus closed the connection")
        self.buffer += data
        while len(self.buffer) >= 16:
            body, fields = struct.unpack_from("<I", self.buffer, 4)[0], struct.unpack_from("<I", self.buffer, 12)[0]
            head = 16 + fields + -fields % 8
            if len(self.buffer) < head + body:
                break
            message = Message.unpack(self.buffer[:head + body], head)
            self.buffer = self.buffer[head + body:]
            self.dispatch(message)
        return True

    def dispatch(self, message):
        if message.kind == SIGNAL:
            self.signals.append(message)
        elif message.kind == CALL:
            if self.serve:
                self.serve(self, message)
        else:
            self.replies[message.reply_to] = message

    def wait(self, serial, timeout=PATIENCE):
        end = time.monotonic() + timeout
        while serial not in self.replies:
            if not self.pump(end - time.monotonic()) and time.monotonic() > end:
                raise TimeoutError(f"no reply to {serial}")
        reply = self.replies.pop(serial)
        if reply.kind == ERROR:
            raise BusError(reply.error, reply.body[0] if reply.body else "")
        return reply.body

    def settle(self, timeout=0.2):
        """Reads until nothing has come for a while."""
        while self.pump(timeout):
            pass

    def start(self, destination, path, interface, member, signature="", *body, flags=0, raw=None):
        return self.send(Message(CALL, flags, body, raw, destination=destination, path=path, interface=interface,
                                 member=member, signature=signature))

    def call(self, *args, timeout=PATIENCE, **kwargs):
        return self.wait(self.start(*args, **kwargs), timeout)

    def driver(self, member, signature="", *body):
        return self.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", member, signature, *body)

    def reply(self, call, signature="", *body):
        self.send(Message(RETURN, NO_REPLY, body, destination=call.sender, reply_to=call.serial, signature=signature))

    def reply_error(self, call, name, text=""):
        self.send(Message(ERROR, NO_REPLY, (text,), destination=call.sender, reply_to=call.serial, signature="s", error=name))

    def take_signals(self, member=None, path=None):
        found = [s for s in self.signals if member in (None, s.member) and path in (None, s.path)]
        self.signals = [s for s in self.signals if s not in found]
        return found

    def wait_signal(self, member, path=None, timeout=PATIENCE):
        end = time.monotonic() + timeout
        while True:
            for s in self.signals:
                if s.member == member and path in (None, s.path):
                    self.signals.remove(s)
                    return s
            if not self.pump(end - time.monotonic()) and time.monotonic() > end:
                raise TimeoutError(f"no signal {member}")

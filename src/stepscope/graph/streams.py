"""One pass over many tensors as LLVM text: every element of every stream is read once and, where asked, written once.

A kernel is called once a thread. The threads take chunks off a common counter until none is left, so that a loaded core
slows down nothing but itself. It may also measure: terms are added up in vectors of the stream's format, every block of
1024 elements in float64, and bins are counted in whole numbers, both apart for each chunk: how many threads share the
work changes no bit.

Nothing is assumed about aliasing: all streams of a vector are read before any is written. (What is measured of a stream
that is not written, but shares memory with one that is, is not defined.)
"""
# Long because a kernel's text is one function, whose parts make no sense apart.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from stepscope.graph import machine
from stepscope.graph.expression import Symbol, order, symbol
from stepscope.graph.llvm import FORMATS, Emitter, Value

__all__ = [
    "BLOCK",
    "CHUNK",
    "COLUMNS",
    "HOST",
    "Kernel",
    "Measured",
    "Stream",
    "counts_starts",
    "split",
]

CHUNK = 1 << 16  # elements that a thread takes at a time: they stay in its cache
BLOCK = 1 << 10  # elements whose terms are added up in the stream's own format, then in float64; the unit of sampling
COLUMNS = 5  # of a row of chunks
HOST = (
    "hyper",
    "scalars",
    "number",
)  # graph inputs whose names start so are numbers that all elements share

_ARGUMENTS = (
    *(
        ("ptr", "table"),
        ("i64", "row"),
        ("ptr", "chunks"),
        ("i64", "count"),
        ("ptr", "counter"),
    ),
    *(("ptr", "sums"), ("ptr", "counts")),
)
_COPIES = 2  # of a histogram: neighbours often fall into one bin, and would wait for each other
_TRUTHS = ("<", "<=", ">", ">=", "&")
_STORED = {
    "float64": "double",
    "float32": "float",
    "bfloat16": "i16",
    "float16": "half",
}
_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def counts_starts(bins: Sequence[int]) -> tuple[int, ...]:
    """Where each histogram of so many bins begins in memory, and where the last one ends: whole vectors of 16."""
    return (0, *accumulate(-(-n // 16) * 16 for n in bins))


@dataclass(frozen=True)
class Stream:
    """A tensor's memory: the graph input it feeds, how its numbers are stored, and what is written back, if anything.

    The value that was written, rounded as it is stored, is the graph input new.<name> of what is measured.
    """

    name: str
    storage: str
    root: Symbol | None = None


def split(roots: Sequence[Symbol]) -> tuple[list[Symbol], list[Symbol]]:
    """The parts of the roots that no tensor enters, and the roots with inputs shared.<i> in their place."""
    inside: dict[int, bool] = {}
    values: dict[int, Symbol] = {}
    host: dict[int, int] = {}
    parts: list[Symbol] = []

    def shared(node: Symbol) -> Symbol:
        if node.op == "const":
            return node
        if node.number not in host:
            host[node.number] = len(parts)
            parts.append(node)
        place = symbol(f"shared.{host[node.number]}")
        return place > 0.5 if node.op in _TRUTHS else place

    for node in order(roots):
        if node.op == "const" or (node.op == "input" and node.args[0].split(".")[0] in HOST):
            inside[node.number] = True
        elif node.op == "input":
            inside[node.number], values[node.number] = False, node
        else:
            inside[node.number] = all(inside[a.number] for a in node.args)
            if not inside[node.number]:
                arguments = [shared(a) if inside[a.number] else values[a.number] for a in node.args]
                values[node.number] = Symbol(node.op, *arguments)
    return parts, [shared(r) if inside[r.number] else values[r.number] for r in roots]


class Measured(NamedTuple):
    """What a pass measures, as graphs: terms are added up, places are truncated to whole numbers and counted.

    They may use the inputs of the streams, new.<name> of the written ones, and inside: 0 beyond the end, else 1.
    The first `everywhere` terms are measured everywhere, the others and the places in the sampled blocks.
    trusting: terms and places without masks, for elements that are inside. The terms that are measured everywhere may
    be trusted where they are finite and the first of `gaps` is 0, not NaN; all may where the second one is, too.
    """

    everywhere: int
    terms: Sequence[Symbol]
    places: Sequence[Symbol]
    gaps: tuple[Symbol, Symbol]
    trusting: Sequence[Symbol]


class Kernel:
    """Machine code of a pass: void run(arguments), at `address`. Threads that call it with the same ones share it.

    arguments: table, row, chunks, count, next, sums, counts, a word each.  table[tensor] holds `row` addresses: of the
    shared numbers, then of each stream.  chunks[count] holds (tensor, first, last, period, block): the elements, and
    the number of the first block of BLOCK of them; the blocks whose number divides by the period are sampled.  next: a
    counter, 0 at first.  sums[count, terms]: float64.  counts[count, counts_starts(bins)[-1]]: uint16, each histogram
    from its start on, for at most 65,535 sampled elements a chunk; what bin 0 holds has no meaning. The last two are
    not touched if nothing is measured.

    host: graphs of the shared numbers, in order.  starts: of the histograms in a row of counts, and the row's length.
    """

    def __init__(
        self,
        precision: str,
        streams: Sequence[Stream],
        measured: Measured | None = None,
        bins: Sequence[int] = (),
    ) -> None:
        """bins: the i-th place lies in [0, bins[i])."""
        written = [s.root for s in streams if s.root is not None]
        wanted: list[Sequence[Symbol]] = [written]
        if measured is not None:
            wanted += [
                measured.terms,
                measured.places,
                measured.gaps,
                measured.trusting,
            ]
        self.starts = counts_starts(bins)
        self.host, roots = split([root for part in wanted for root in part])
        parts = iter(roots)
        split_parts = [[next(parts) for _ in part] for part in wanted]
        writer = _Writer(
            precision,
            streams,
            len(self.host),
            measured and measured.everywhere,
            split_parts,
            bins,
        )
        self._engine, self.address = machine.code(writer.text(), "run", unroll=measured is None)


class _Writer:
    """Writes the text of one kernel."""

    def __init__(
        self,
        precision: str,
        streams: Sequence[Stream],
        shared: int,
        everywhere: int | None,
        parts: Sequence[Sequence[Symbol]],
        bins: Sequence[int],
    ) -> None:
        self.f = FORMATS[precision]
        self.streams, self.shared, self.everywhere = streams, shared, everywhere
        none: list[Symbol] = []
        self.written = parts[0]
        self.terms, self.places, self.gaps, self.trusting = parts[1:] or (
            none,
            none,
            none,
            none,
        )
        pairs = list(zip(self.terms, self.trusting, strict=False))
        self.first = [pairs.index(pair) for pair in pairs]  # of the terms that are this one
        read = {node.args[0] for part in parts[1:] for node in order(part) if node.op == "input"}
        self.old = [s.name for s in streams if s.root is not None and s.name in read]  # overwritten, but measured
        self.width = 16 if precision == "float32" or not self.terms else 8
        self.starts = counts_starts(bins)
        self.e = Emitter(self.width, self.f)
        self.number = self.e.type_of(True)

    def text(self) -> str:
        """The module."""
        e = self.e
        self._start()
        e.lines.append("blocks:")
        e.line(f"%b = phi i64 [ 0, %ready ], [ %end, %{'flushed' if self.terms else 'wide'} ]")
        e.line("%more = icmp ult i64 %b, %vectors")
        e.line("br i1 %more, label %block, label %tail")
        e.lines.append("block:")
        self._block()
        e.start_block("tail", keep=False)
        e.line("%some = icmp ugt i64 %rest, 0")
        e.line("br i1 %some, label %narrow, label %over")
        e.start_block("narrow", keep=False)
        lanes = ", ".join(f"i64 {lane}" for lane in range(self.width))
        e.line(f"%mask = icmp ult <{self.width} x i64> <{lanes}>, {self._splat('%rest', 'i64')}")
        kinds = ("all",) if self.everywhere is None else ("all", "few")  # terms of a block
        self._choose("%vectors", "narrow", kinds)
        for kind in kinds:
            e.start_block(f"narrow.{kind}", keep=False)
            self._flush(self._narrow(kind))
            if self.places and kind == "all":
                e.line("br label %narrow.counted.entry")
                e.start_block("narrow.counted.entry", keep=False)
                self._count("1", "narrow.counted", 1)
            e.line("br label %over")
        e.start_block("over", keep=False)
        if self.places:
            self._merge()
        e.line("br label %next")
        e.lines += ["done:", "  ret void", "}"]
        e.lines.append('attributes #0 = { "reciprocal-estimates"="vec-divf:1,vec-sqrtf:1" }')
        return "\n".join([*sorted(e.declarations), *e.lines])

    def _choose(self, vector: str, label: str, kinds: Sequence[str]) -> None:
        """Branch to the first of <label>.<kind> in sampled blocks, else to the second."""
        e = self.e
        yes, no = (f"{label}.{kind}" if label else kind for kind in (kinds[0], kinds[-1]))
        if len(kinds) == 1:
            e.line(f"br label %{yes}")
            return
        number = e.let(f"add i64 {e.let(f'udiv i64 {vector}, {BLOCK // self.width}')}, %blocknumber")
        sampled = e.let(f"icmp eq i64 {e.let(f'urem i64 {number}, %period')}, 0")
        e.line(f"br i1 {sampled}, label %{yes}, label %{no}")

    def _block(self) -> None:
        """Step the vectors of a block, all of a chunk's where nothing is measured, and measure it.

        The sums over all coordinates are taken on the way, without masks, and what is needed of the old values is kept.
        Then the numbers of the block are near: it is measured again, with masks, if any was not finite.
        """
        e = self.e
        if self.terms:
            reach = e.let(f"add i64 %b, {BLOCK // self.width}")
            short = e.let(f"icmp ult i64 %vectors, {reach}")
            e.line(f"%end = select i1 {short}, i64 %vectors, i64 {reach}")
        else:
            e.line("%end = add i64 %vectors, 0")
        e.line("%number = sub i64 %end, %b")
        e.line("br label %wide")
        e.start_block("wide", keep=False)
        e.line("%v = phi i64 [ 0, %block ], [ %v.next, %wide ]")
        own = self._apart(range(self.everywhere or 0))
        names = [*map(str, own), *(["gap"] if self.terms else [])]
        for name in names:
            e.line(f"%t.{name} = phi {self.number} [ zeroinitializer, %block ], [ %u.{name}, %wide ]")
        inputs = self._step(self._place("%v"), "%v", masked=False)
        if self.terms:
            e.estimates = self.f.llvm == "float"
            for i in own:
                self._name(f"%u.{i}", self._added(f"%t.{i}", self.trusting[i], inputs))
            self._name("%u.gap", self._added("%t.gap", self.gaps[0], inputs))
            e.estimates = False
        e.line("%v.next = add i64 %v, 1")
        after = "stepped" if self.terms else "blocks"
        e.line(f"br i1 {e.let('icmp ult i64 %v.next, %number')}, label %wide, label %{after}")
        if self.terms:
            e.start_block("stepped", keep=False)
            self._measure()

    def _measure(self) -> None:
        """Measure the block that was stepped."""
        e, few, count = self.e, self.everywhere, len(self.terms)
        before = {i: f"%u.{i}" for i in self._apart(range(few or 0))}
        shown, zero = "%u.gap", e.spread(self.f.literal(0.0))
        for name in before.values():  # 0 infinity and 0 NaN are NaN
            shown = self._fused(zero, name, shown)
        e.line(f"%trust = {self._finite(shown)}")
        if few is None:
            e.line("br label %sampled")
        else:
            self._choose("%b", "", ("sampled", "simple"))
        e.start_block("sampled", keep=False)
        e.line("br i1 %trust, label %quick.entry, label %slow.entry")
        # What was added up on the way is not added up again, and what is the same for all is multiplied.
        known = {self.trusting[i]: name for i, name in before.items()}
        rest = [i for i in self._apart(range(few or 0, count)) if self.trusting[i] not in known]
        again = [i for i in rest if self.trusting[i].op != "const"]
        quick = before | self._again("quick", self.trusting, again, self.trusting[count:], quick=True)
        for i in self._apart(range(few or 0, count)):
            if i not in again:
                root = self.trusting[i]
                quick[i] = known[root] if root in known else self._repeated(float(root.args[0]))
        fine = e.let(self._finite("%u.quick.gap"))
        e.line(f"br i1 {fine}, label %quick.kept, label %quick.undone.entry")
        e.start_block("quick.kept", keep=False)
        e.line("br label %measured")
        e.start_block("quick.undone.entry", keep=False)
        self._count("%number", "quick.undone", -1)
        e.line("br label %slow.entry")
        slow = self._again("slow", self.terms, self._apart(range(count)), self.places)
        e.line("br label %slow.counted.entry")
        e.start_block("slow.counted.entry", keep=False)
        self._count("%number", "slow.counted", 1)
        e.line("br label %measured")
        e.start_block("measured", keep=False)
        phi = "phi {0} [ {1}, %quick.kept ], [ {2}, %slow.counted ]"
        totals = {i: e.let(phi.format(self.number, quick[i], slow[i])) for i in slow}
        self._flush([totals[self.first[i]] for i in range(count)])
        e.line("br label %flushed")
        if few is not None:
            e.start_block("simple", keep=False)
            e.line("br i1 %trust, label %summed, label %masked.entry")
            slow = self._again("masked", self.terms, list(before), [])
            e.line("br label %summed")
            e.start_block("summed", keep=False)
            phi = "phi {0} [ {1}, %simple ], [ {2}, %masked.done ]"
            totals = {i: e.let(phi.format(self.number, before[i], slow[i])) for i in before}
            self._flush([totals[self.first[i]] for i in range(few)])
            e.line("br label %flushed")
        e.start_block("flushed", keep=False)
        e.line("br label %blocks")

    def _again(
        self,
        label: str,
        roots: Sequence[Symbol],
        chosen: Sequence[int],
        places: Sequence[Symbol],
        *,
        quick: bool = False,
    ) -> dict[int, str]:
        """A loop over the vectors of a block that is in the cache: totals of the chosen terms, and all places.

        It is entered at <label>.entry and ends in an open block <label>.done.  quick: add up %u.<label>.gap as well,
        and count the places of one vector while the next one is computed: these keep different units of a core busy.
        """
        e = self.e
        e.start_block(f"{label}.entry", keep=False)
        e.line(f"br label %{label}")
        e.start_block(label, keep=False)
        v = f"%v.{label}"
        e.line(f"{v} = phi i64 [ 0, %{label}.entry ], [ {v}.next, %{label} ]")
        for name in (*chosen, *(["gap"] if quick else [])):
            total = f"%t.{label}.{name} = phi {self.number} [ zeroinitializer, %{label}.entry ]"
            e.line(f"{total}, [ %u.{label}.{name}, %{label} ]")
        inputs = self._reload(self._place(v), v)
        e.estimates = self.f.llvm == "float"
        for i in chosen:
            self._name(f"%u.{label}.{i}", self._added(f"%t.{label}.{i}", roots[i], inputs))
        if quick:
            self._name(f"%u.{label}.gap", self._added(f"%t.{label}.gap", self.gaps[1], inputs))
        self._put([self._wide(value) for value in e.emit(places, inputs)], v)
        e.estimates = False
        if quick:
            self._count_lanes(v, -self.width, self.width, 1)
        e.line(f"{v}.next = add i64 {v}, 1")
        e.line(f"br i1 {e.let(f'icmp ult i64 {v}.next, %number')}, label %{label}, label %{label}.done")
        e.start_block(f"{label}.done", keep=False)
        if quick:
            self._count_lanes("%number", -self.width, self.width, 1)
        return {i: f"%u.{label}.{i}" for i in chosen}

    def _place(self, v: str) -> str:
        """The first element of a vector of the block."""
        vector = self.e.let(f"add i64 %b, {v}")
        return self.e.let(f"add i64 %first, {self.e.let(f'mul i64 {vector}, {self.width}')}")

    def _name(self, name: str, value: str) -> None:
        """Give a value the name that a loop's start refers to."""
        self.e.line(f"{name} = select i1 true, {self.number} {value}, {self.number} {value}")

    def _finite(self, gap: str) -> str:
        """Whether no lane is NaN, as an operation."""
        fine = self.e.let(f"fcmp ord {self.number} {gap}, zeroinitializer")
        return f"icmp eq i{self.width} {self.e.let(f'bitcast <{self.width} x i1> {fine} to i{self.width}')}, -1"

    def _terms(self, kind: str) -> int:
        return len(self.terms) if kind == "all" else self.everywhere or 0

    def _apart(self, terms: Sequence[int]) -> list[int]:
        """Of these terms, those that are unlike all before."""
        return [i for i in terms if self.first[i] == i]

    def _splat(self, name: str, kind: str) -> str:
        one = self.e.let(f"insertelement <{self.width} x {kind}> poison, {kind} {name}, i32 0")
        vector = f"<{self.width} x {kind}>"
        return self.e.let(f"shufflevector {vector} {one}, {vector} poison, <{self.width} x i32> zeroinitializer")

    def _start(self) -> None:
        """Take a chunk; find its tensor's addresses and numbers."""
        e = self.e
        e.lines += ["define void @run(ptr %arguments) #0 {", "entry:"]
        for i, (kind, name) in enumerate(_ARGUMENTS):
            e.line(f"%{name}.at = getelementptr i64, ptr %arguments, i64 {i}")
            e.line(f"%{name} = load {kind}, ptr %{name}.at, align 8")
        if self.old:
            e.line(f"%old = alloca [{len(self.old) * BLOCK} x {self.f.llvm}], align 64")
        if self.places:
            # A vector of places 0 is before the first one of the block: bin 0 may be counted for nothing.
            e.line(f"%places.all = alloca [{len(self.places) * (BLOCK + self.width)} x i32], align 64")
            e.line(f"%places = getelementptr i32, ptr %places.all, i64 {self.width}")
            for h in range(len(self.places)):
                self._clear(self._of_block("%places.all", h, "0"), 4 * self.width)
            e.line(f"%bins = alloca [{_COPIES * self.starts[-1]} x i16], align 64")
            self._clear("%bins", 2 * _COPIES * self.starts[-1])
        e.line("br label %next")
        e.lines.append("next:")
        e.line("%c = atomicrmw add ptr %counter, i64 1 monotonic")
        e.line("%live = icmp ult i64 %c, %count")
        e.line("br i1 %live, label %chunk, label %done")
        e.lines.append("chunk:")
        e.line(f"%c5 = mul i64 %c, {COLUMNS}")
        for i, name in enumerate(("tensor", "first", "last", "period", "blocknumber")):
            e.line(f"%at{name} = add i64 %c5, {i}")
            e.line(f"%to{name} = getelementptr i64, ptr %chunks, i64 %at{name}")
            e.line(f"%{name} = load i64, ptr %to{name}, align 8")
        e.line("%offset = mul i64 %tensor, %row")
        e.line("%line = getelementptr ptr, ptr %table, i64 %offset")
        e.line("%shared = load ptr, ptr %line, align 8")
        for i in range(len(self.streams)):
            e.line(f"%p{i} = getelementptr ptr, ptr %line, i64 {i + 1}")
            e.line(f"%s{i} = load ptr, ptr %p{i}, align 8")
        for i in range(self.shared):
            e.line(f"%n{i} = getelementptr {self.f.llvm}, ptr %shared, i64 {i}")
            e.line(f"%h{i} = load {self.f.llvm}, ptr %n{i}, align {self.f.bits // 8}")
        e.line("%length = sub i64 %last, %first")
        e.line(f"%vectors = udiv i64 %length, {self.width}")
        e.line(f"%rest = urem i64 %length, {self.width}")
        e.line("%whole = sub i64 %length, %rest")
        e.line("%middle = add i64 %first, %whole")
        if self.terms:
            e.line(f"%where = mul i64 %c, {len(self.terms)}")
            e.line("%into = getelementptr double, ptr %sums, i64 %where")
            self._clear("%into", 8 * len(self.terms))
        e.line("br label %ready")
        e.start_block("ready", keep=False)
        e.line("br label %blocks")

    def _clear(self, name: str, size: int) -> None:
        self.e.declarations.add("declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)")
        self.e.line(f"call void @llvm.memset.p0.i64(ptr {name}, i8 0, i64 {size}, i1 false)")

    def _shared(self) -> dict[str, Value]:
        return {f"shared.{i}": Value(f"%h{i}", False) for i in range(self.shared)}

    def _at(self, stream: int, at: str) -> str:
        return self.e.let(f"getelementptr {_STORED[self.streams[stream].storage]}, ptr %s{stream}, i64 {at}")

    def _step(self, at: str, place: str, *, masked: bool) -> dict[str, Value]:
        """Read, compute and write the vector that starts at element `at`, the one at `place` in its block."""
        e = self.e
        inputs = self._shared()
        addresses = [self._at(i, at) for i in range(len(self.streams))]
        for s, address in zip(self.streams, addresses, strict=True):
            inputs[s.name] = Value(self._load(s.storage, address, masked), True)
        results = iter(e.emit(self.written, inputs))
        for s, address in zip(self.streams, addresses, strict=True):
            if s.root is not None:
                value = next(results)
                name = value.name if value.vector else e.spread(value.name)
                inputs[f"new.{s.name}"] = Value(self._store(s.storage, name, address, masked), True)
        if not masked:
            for n, name in enumerate(self.old):
                e.line(f"store {self.number} {inputs[name].name}, ptr {self._kept(n, place)}, align 64")
        inputs["inside"] = Value(self.f.literal(1.0), False)
        return inputs

    def _kept(self, n: int, place: str) -> str:
        """Where an old value of a vector of the block is kept."""
        number = self.e.let(f"add i64 {self.e.let(f'mul i64 {place}, {self.width}')}, {n * BLOCK}")
        return self.e.let(f"getelementptr {self.f.llvm}, ptr %old, i64 {number}")

    def _reload(self, at: str, place: str) -> dict[str, Value]:
        """What `_step` left of a vector."""
        inputs = self._shared()
        for i, s in enumerate(self.streams):
            value = Value(self._load(s.storage, self._at(i, at), masked=False), True)
            inputs[s.name if s.root is None else f"new.{s.name}"] = value
        for n, name in enumerate(self.old):
            inputs[name] = Value(
                self.e.let(f"load {self.number}, ptr {self._kept(n, place)}, align 64"),
                True,
            )
        inputs["inside"] = Value(self.f.literal(1.0), False)
        return inputs

    def _narrow(self, kind: str) -> list[str]:
        """Step and measure the elements beyond the last whole vector; returns their terms."""
        e = self.e
        inputs = self._step("%middle", "0", masked=True)
        if not self.terms:
            return []
        count, places = self._terms(kind), self.places if kind == "all" else []
        e.estimates = self.f.llvm == "float"
        vector = self.number
        one = e.spread(self.f.literal(1.0))
        inputs["inside"] = Value(
            e.let(f"select <{self.width} x i1> %mask, {vector} {one}, {vector} zeroinitializer"),
            True,
        )
        found = [self._wide(value) for value in e.emit([*self.terms[:count], *places], inputs)]
        e.estimates = False
        self._put(found[count:], "0")
        return found[:count]

    def _of_block(self, base: str, h: int, number: str) -> str:
        """Where the place in histogram h of an element of the block is kept: they go through memory, since taking lanes
        out of a register costs more."""
        at = self.e.let(f"add i64 {number}, {h * (BLOCK + self.width)}")
        return self.e.let(f"getelementptr i32, ptr {base}, i64 {at}")

    def _put(self, places: Sequence[str], place: str) -> None:
        """Keep the places of a vector of the block."""
        e, ints = self.e, f"<{self.width} x i32>"
        for h, name in enumerate(places):
            whole = e.let(f"fptosi {self.number} {name} to {ints}")
            target = self._of_block("%places", h, e.let(f"mul i64 {place}, {self.width}"))
            e.line(f"store {ints} {whole}, ptr {target}, align 4")

    def _count_lanes(self, vector: str, first: int, lanes: int, amount: int) -> None:
        """Add to the bins of so many elements of the block, from the vector's on and `first` further."""
        e = self.e
        start = e.let(f"add i64 {e.let(f'mul i64 {vector}, {self.width}')}, {first}")
        for lane in range(lanes):
            number = e.let(f"add i64 {start}, {lane}")
            for h in range(len(self.places)):
                index = e.let(f"load i32, ptr {self._of_block('%places', h, number)}, align 4")
                begin = lane % _COPIES * self.starts[-1] + self.starts[h]
                cell = e.let(f"getelementptr i16, ptr %bins, i64 {begin}")
                cell = e.let(f"getelementptr i16, ptr {cell}, i64 {e.let(f'zext i32 {index} to i64')}")
                seen = e.let(f"load i16, ptr {cell}, align 2")
                e.line(f"store i16 {e.let(f'add i16 {seen}, {amount}')}, ptr {cell}, align 2")

    def _count(self, vectors: str, label: str, amount: int) -> None:
        """Add to the bins of the block's first vectors, from an open block <label>.entry to an open one `label`."""
        e, v = self.e, f"%{label}.v"
        e.line(f"br label %{label}.loop")
        e.start_block(f"{label}.loop", keep=False)
        e.line(f"{v} = phi i64 [ 0, %{label}.entry ], [ {v}.next, %{label}.loop ]")
        self._count_lanes(v, 0, self.width, amount)
        e.line(f"{v}.next = add i64 {v}, 1")
        e.line(f"br i1 {e.let(f'icmp ult i64 {v}.next, {vectors}')}, label %{label}.loop, label %{label}")
        e.start_block(label, keep=False)

    def _repeated(self, value: float) -> str:
        """What a block's vectors add up to, each lane the same number in every one."""
        e, kind = self.e, self.f.llvm
        count = e.let(f"uitofp i64 %number to {kind}")
        return self._splat(e.let(f"fmul {kind} {count}, {self.f.literal(value)}"), kind)

    def _fused(self, a: str, b: str, c: str) -> str:
        suffix = f"v{self.width}{self.f.suffix}"
        return self.e.call(f"llvm.fma.{suffix}", self.number, *[(self.number, x) for x in (a, b, c)])

    def _added(self, total: str, term: Symbol, inputs: Mapping[str, Value]) -> str:
        """The total with a term added: nothing for 0, one operation for a product or a choice between a term and 0."""
        e = self.e
        if term.op == "const" and term.args[0] == 0:
            return total
        if term.op == "*":
            a, b = (self._wide(value) for value in e.emit(term.args, inputs))
            return self._fused(a, b, total)
        if term.op == "where":
            zeros = [x.op == "const" and x.args[0] == 0 for x in term.args[1:]]
            if any(zeros):
                (condition,) = e.emit(term.args[:1], inputs)
                more = self._added(total, term.args[1 + zeros.index(False)], inputs) if not all(zeros) else total
                chosen = (total, more) if zeros[0] else (more, total)
                truth = e.type_of(condition.vector, "i1")
                return e.let(f"select {truth} {condition.name}, " + ", ".join(f"{self.number} {x}" for x in chosen))
        (value,) = e.emit([term], inputs)
        return e.let(f"fadd {self.number} {total}, {self._wide(value)}")

    def _wide(self, value: Value) -> str:
        return value.name if value.vector else self.e.spread(value.name)

    def _load(self, storage: str, address: str, masked: bool) -> str:
        e, w = self.e, self.width
        narrow = _BYTES[storage] == 2
        element = "i16" if narrow else _STORED[storage]
        kind = f"<{w} x {element}>"
        align = _BYTES[storage]
        if masked:
            suffix = f"v{w}{'i16' if narrow else 'f32' if element == 'float' else 'f64'}"
            e.declarations.add(f"declare {kind} @llvm.masked.load.{suffix}.p0(ptr, i32, <{w} x i1>, {kind})")
            raw = e.let(
                f"call {kind} @llvm.masked.load.{suffix}.p0"
                f"(ptr {address}, i32 {align}, <{w} x i1> %mask, {kind} zeroinitializer)"
            )
        else:
            raw = e.let(f"load {kind}, ptr {address}, align {align}")
        if storage == "bfloat16":
            longer = e.let(f"zext {kind} {raw} to <{w} x i32>")
            shifted = e.let(f"shl <{w} x i32> {longer}, {self._constant(16)}")
            return e.let(f"bitcast <{w} x i32> {shifted} to {self.number}")
        if storage == "float16":
            half = e.let(f"bitcast {kind} {raw} to <{w} x half>")
            return e.let(f"fpext <{w} x half> {half} to {self.number}")
        return raw

    def _constant(self, value: int) -> str:
        return "<" + ", ".join([f"i32 {value}"] * self.width) + ">"

    def _store(self, storage: str, name: str, address: str, masked: bool) -> str:
        """Write a vector; its value as it was stored."""
        e, w = self.e, self.width
        narrow = _BYTES[storage] == 2
        element = "i16" if narrow else _STORED[storage]
        kind, raw, kept = f"<{w} x {element}>", name, name
        if storage == "bfloat16":  # to nearest, of two the even one; every nan becomes the quiet one
            ints = f"<{w} x i32>"
            bits = e.let(f"bitcast {self.number} {name} to {ints}")
            odd = e.let(f"and {ints} {e.let(f'lshr {ints} {bits}, {self._constant(16)}')}, {self._constant(1)}")
            up = e.let(f"add {ints} {odd}, {self._constant(0x7FFF)}")
            nearest = e.let(f"add {ints} {bits}, {up}")
            broken = e.let(f"fcmp uno {self.number} {name}, {name}")
            chosen = e.let(f"select <{w} x i1> {broken}, {ints} {self._constant(0x7FC00000)}, {ints} {nearest}")
            high = e.let(f"lshr {ints} {chosen}, {self._constant(16)}")
            raw = e.let(f"trunc {ints} {high} to {kind}")
            kept = e.let(f"bitcast {ints} {e.let(f'shl {ints} {high}, {self._constant(16)}')} to {self.number}")
        elif storage == "float16":
            half = e.let(f"fptrunc {self.number} {name} to <{w} x half>")
            kept = e.let(f"fpext <{w} x half> {half} to {self.number}")
            raw = e.let(f"bitcast <{w} x half> {half} to {kind}")
        if not masked:
            e.line(f"store {kind} {raw}, ptr {address}, align {_BYTES[storage]}")
            return kept
        suffix = f"v{w}{'i16' if narrow else 'f32' if element == 'float' else 'f64'}"
        e.declarations.add(f"declare void @llvm.masked.store.{suffix}.p0({kind}, ptr, i32, <{w} x i1>)")
        e.line(
            f"call void @llvm.masked.store.{suffix}.p0"
            f"({kind} {raw}, ptr {address}, i32 {_BYTES[storage]}, <{w} x i1> %mask)"
        )
        return kept

    def _flush(self, totals: Sequence[str]) -> None:
        """Add a block's totals to the chunk's in float64."""
        e = self.e
        exacts: dict[str, str] = {}
        for i, name in enumerate(totals):
            exacts[name] = exacts.get(name) or self._sum(name)
            place = e.let(f"getelementptr double, ptr %into, i64 {i}")
            before = e.let(f"load double, ptr {place}, align 8")
            e.line(f"store double {e.let(f'fadd double {before}, {exacts[name]}')}, ptr {place}, align 8")

    def _sum(self, name: str) -> str:
        """The sum of a vector's lanes in float64: halves are added, a tree of few roundings."""
        e, size, value = self.e, self.width, name
        while size > 1:
            half = size // 2
            lanes = f"<{size} x {self.f.llvm}>"
            low, high = (
                e.let(
                    f"shufflevector {lanes} {value}, {lanes} poison, "
                    f"<{half} x i32> <{', '.join(f'i32 {j + first}' for j in range(half))}>"
                )
                for first in (0, half)
            )
            value = e.let(f"fadd <{half} x {self.f.llvm}> {low}, {high}")
            size = half
        one = e.let(f"extractelement <1 x {self.f.llvm}> {value}, i32 0")
        return one if self.f.llvm == "double" else e.let(f"fpext float {one} to double")

    def _merge(self) -> None:
        """Add the copies of the histograms into the chunk's row, and clear them for the next one."""
        e, size = self.e, self.starts[-1]
        e.line(f"%whither = mul i64 %c, {size}")
        e.line("%out = getelementptr i16, ptr %counts, i64 %whither")
        e.line("br label %merge.entry")
        e.start_block("merge.entry", keep=False)
        e.line("br label %merge")
        e.start_block("merge", keep=False)
        e.line("%merge.j = phi i64 [ 0, %merge.entry ], [ %merge.next, %merge ]")
        total = "zeroinitializer"
        for copy in range(_COPIES):
            at = e.let(f"add i64 %merge.j, {copy * size}")
            cells = e.let(f"getelementptr i16, ptr %bins, i64 {at}")
            total = e.let(f"add <16 x i16> {total}, {e.let(f'load <16 x i16>, ptr {cells}, align 32')}")
            e.line(f"store <16 x i16> zeroinitializer, ptr {cells}, align 32")
        e.line(f"store <16 x i16> {total}, ptr {e.let('getelementptr i16, ptr %out, i64 %merge.j')}, align 2")
        e.line("%merge.next = add i64 %merge.j, 16")
        e.line(f"%merge.more = icmp ult i64 %merge.next, {size}")
        e.line("br i1 %merge.more, label %merge, label %merge.done")
        e.start_block("merge.done", keep=False)

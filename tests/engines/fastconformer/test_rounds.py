"""Which audio the network hears when: windows on one grid, every frame committed once."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engines.fastconformer.encoder import halved
from orchestrator.engines.fastconformer.rounds import Feed, Geometry, Round

HOP, SUBSAMPLING = 4, 8
BLOCK = HOP * SUBSAMPLING


class Ring:
    """What the device keeps of one stream: the last blocks of a window."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.blocks = np.full((geometry.window, BLOCK), np.nan, dtype=np.float32)

    def hear(self, part: Round) -> np.ndarray:
        """Take the new audio of a round and return its window."""
        count = -(-part.audio.size // BLOCK)
        padded = np.zeros(count * BLOCK, dtype=np.float32)
        padded[: part.audio.size] = part.audio
        for number, block in enumerate(padded.reshape(-1, BLOCK), part.block):
            self.blocks[number % self.geometry.window] = block
        order = (part.base + np.arange(self.geometry.window)) % self.geometry.window
        return self.blocks[order].reshape(-1)[: part.samples]


geometries = st.builds(
    Geometry,
    left=st.integers(0, 9),
    chunk=st.integers(1, 5),
    right=st.integers(0, 7),
    hop=st.just(HOP),
    subsampling=st.just(SUBSAMPLING),
)
pieces = st.lists(st.tuples(st.integers(0, 6 * BLOCK), st.booleans()), max_size=25)


@given(geometry=geometries, chunks=pieces)
def test_each_frame_is_committed_once_with_its_contexts(
    geometry: Geometry, chunks: list[tuple[int, bool]]
) -> None:
    total = sum(size for size, _ in chunks)
    recording = np.arange(1, total + 1, dtype=np.float32)
    feed, ring = Feed(geometry, slot=3), Ring(geometry)
    received = committed = 0
    for number, (size, force) in enumerate(chunks):
        flush = force or number == len(chunks) - 1
        feed.push(recording[received : received + size])
        received += size
        while (part := feed.round(flush=flush)) is not None:
            assert part.slot == 3
            assert part.first == committed
            assert part.base == max(0, committed - geometry.left)
            window = ring.hear(part)
            begin = part.base * BLOCK
            np.testing.assert_array_equal(window, recording[begin : begin + part.samples])
            assert part.commit <= geometry.chunk
            assert part.tail <= geometry.right
            frames = geometry.frames(part.samples)
            assert part.first - part.base + part.commit + part.tail == frames
            if part.final:
                assert begin + part.samples == received
                committed += part.tail
            elif part.commit:
                assert part.commit == geometry.chunk
                assert part.tail == geometry.right
            committed += part.commit
            feed.done(part)
            assert feed.next == committed
        if flush:
            # All is committed, but for less than the two feature frames that a window needs at least.
            assert committed * BLOCK >= received - 2 * HOP
            assert feed.heard <= received


@given(geometry=geometries, sizes=st.lists(st.integers(0, 6 * BLOCK), max_size=12))
def test_how_the_audio_is_cut_changes_no_window(geometry: Geometry, sizes: list[int]) -> None:
    recording = np.arange(sum(sizes), dtype=np.float32)

    def windows(sizes: list[int]) -> list[tuple[int, int, int, int, int, bool]]:
        feed = Feed(geometry, slot=0)
        found = []
        begin = 0
        for number, size in enumerate(sizes, 1):
            feed.push(recording[begin : begin + size])
            begin += size
            while (part := feed.round(flush=number == len(sizes))) is not None:
                found.append((part.base, part.samples, part.first, part.commit, part.tail, part.final))
                feed.done(part)
        return found

    assert windows(sizes) == windows([sum(sizes)])


def test_the_first_window_is_long_enough_to_mean_something() -> None:
    geometry = Geometry(left=20, chunk=4, right=13, hop=HOP, subsampling=SUBSAMPLING)
    feed = Feed(geometry, slot=0)
    # Windows end at 1, 5, 9, 13, 17...
    feed.push(np.zeros(13 * BLOCK - 1, dtype=np.float32))
    assert feed.round(flush=False) is None
    feed.push(np.zeros(1, dtype=np.float32))
    part = feed.round(flush=False)
    assert part is not None
    assert (part.base, part.commit, part.tail, part.fresh) == (0, 0, 13, True)
    feed.done(part)
    assert feed.round(flush=False) is None
    feed.push(np.zeros(4 * BLOCK, dtype=np.float32))
    following = feed.round(flush=False)
    assert following is not None
    assert (following.block, following.audio.size, following.fresh) == (13, 4 * BLOCK, False)
    assert (following.commit, following.tail) == (4, 13)


def test_after_a_forced_end_tentative_words_come_with_the_next_chunk() -> None:
    geometry = Geometry(left=10, chunk=2, right=4, hop=HOP, subsampling=SUBSAMPLING)
    feed = Feed(geometry, slot=0)
    feed.push(np.zeros(9 * BLOCK + 5, dtype=np.float32))
    while (part := feed.round(flush=True)) is not None:
        feed.done(part)
    assert feed.next == 10
    feed.push(np.zeros(3 * BLOCK, dtype=np.float32))
    part = feed.round(flush=False)
    assert part is not None
    assert (part.base, part.first, part.commit, part.tail) == (0, 10, 0, 2)


@given(st.integers(0, 10_000))
def test_frames_are_the_encoders(samples: int) -> None:
    geometry = Geometry(1, 1, 1, HOP, SUBSAMPLING)
    features = samples // HOP
    assert geometry.frames(samples) == (halved(halved(halved(features))) if features > 1 else 0)

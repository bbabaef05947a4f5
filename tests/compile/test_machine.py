"""The register tile and the packing that follow from a core's numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecompress.compile.machine import Machine, machine_of
from edgecompress.targets import board_names, load_board

BOARDS = [name for name in board_names() if load_board(name).supported]
MACHINES = st.builds(
    Machine,
    lanes=st.sampled_from([4, 8, 16]),
    registers=st.sampled_from([8, 16, 32]),
    fma_per_cycle=st.sampled_from([0.5, 1.0, 2.0]),
    l1_bytes=st.just(32768),
    l2_bytes=st.just(524288),
    cores=st.integers(1, 8),
    by_element=st.booleans(),
)
CHANNELS = st.integers(1, 2048)


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_is_its_fastest_cluster(name: str) -> None:
    board = load_board(name)
    machine = machine_of(board)
    assert machine.lanes * 32 == max(128, board.fast.vector_bits)
    assert machine.registers == board.fast.vector_registers
    assert machine.cores == board.fast.cores
    assert machine.by_element == (board.arch == "aarch64")
    assert machine.l2_bytes >= machine.l1_bytes >= 16 * 1024


def test_cores_of_a_slower_cluster_do_not_count() -> None:
    board = load_board("rk3399")
    assert machine_of(board).cores == 2 < board.cores


def test_a_machine_is_the_cluster_that_was_asked_for() -> None:
    board = load_board("rk3588")
    fast, little, everything = (machine_of(board.on(c)) for c in ("fast", "efficient", "all"))
    assert (fast.cores, little.cores, everything.cores) == (4, 4, 8)
    assert (fast.fma_per_cycle, little.fma_per_cycle) == (2.0, 1.0)
    assert little.l1_bytes < fast.l1_bytes
    assert everything == replace(fast, cores=8)


@given(MACHINES, CHANNELS)
def test_packing_covers_the_channels(machine: Machine, count: int) -> None:
    pack, padded = machine.pack(count), machine.channels(count)
    assert pack % machine.lanes == 0
    assert padded % pack == 0
    assert 0 <= padded - count < pack


@given(MACHINES, CHANNELS)
def test_what_is_padded_once_needs_no_more(machine: Machine, count: int) -> None:
    """A kernel and its reader agree on the channels in memory, however they ask."""
    padded = machine.channels(count)
    assert machine.channels(padded) <= padded
    assert machine.channels(count) == replace(machine).channels(count)


@given(MACHINES, st.integers(1, 4))
def test_a_tile_fits_into_the_registers(machine: Machine, vectors: int) -> None:
    rows = machine.tile_rows(vectors)
    assert rows >= 1
    # Accumulators, the weights' vectors, and the inputs: of each pixel, or one that is broadcast.
    used = rows * vectors + vectors + (rows if machine.by_element else 1)
    assert used <= machine.registers or rows == 1
    larger = (rows + 1) * vectors + vectors + (rows + 1 if machine.by_element else 1)
    assert larger > machine.registers - 1, "one more pixel would have fitted"


@given(MACHINES, st.integers(1, 64), st.integers(1, 4))
def test_a_tile_takes_no_less_than_its_multiply_adds(
    machine: Machine, rows: int, vectors: int
) -> None:
    cycles = machine.tile_cycles(rows, vectors)
    assert cycles >= rows * vectors / machine.fma_per_cycle
    assert machine.tile_cycles(rows + 1, vectors) >= cycles


@given(MACHINES, st.integers(1, 200), st.integers(1, 16), st.integers(1, 4), st.integers(1, 4608))
def test_a_line_costs_its_tiles(
    machine: Machine, pixels: int, rows: int, vectors: int, depth: int
) -> None:
    line = machine.line_cycles(pixels, rows, vectors, depth)
    assert line > pixels * vectors * depth / machine.fma_per_cycle
    assert machine.line_cycles(pixels + rows, rows, vectors, depth) > line
    if pixels % rows == 0:
        one = machine.line_cycles(rows, rows, vectors, depth)
        assert line == pytest.approx(pixels // rows * one)


def test_few_channels_are_not_padded_to_many() -> None:
    machine = machine_of(load_board("rpi4b"))
    assert machine.channels(3) == 4
    assert machine.channels(1000) == 1000
    assert [machine.pack(count) for count in (4, 8)] == [4, 8]

"""SplitMix64 against numbers published for it."""

from edgekiln.runtimes.sampling.rng import SplitMix64


def test_published_numbers():
    generator = SplitMix64(1234567)
    assert [generator.next() for _ in range(5)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_streams_start_from_the_numbers_of_the_seed():
    parent = SplitMix64(7)
    for row in range(4):
        assert SplitMix64.stream(7, row).next() == SplitMix64(parent.next()).next()


def test_uniform_is_in_range_and_fills_it():
    generator = SplitMix64(0)
    values = [generator.uniform() for _ in range(4000)]
    assert 0 <= min(values) < 0.01
    assert 0.99 < max(values) < 1
    assert abs(sum(values) / len(values) - 0.5) < 0.02

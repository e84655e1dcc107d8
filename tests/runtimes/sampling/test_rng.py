"""SplitMix64, compared with published outputs."""

from edgekiln.runtimes.sampling.rng import SplitMix64


def test_published_outputs():
    generator = SplitMix64(1234567)
    assert [generator.next() for _ in range(5)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_streams_are_seeded_with_outputs_of_the_parent():
    parent = SplitMix64(7)
    for index in range(4):
        assert SplitMix64.stream(7, index).next() == SplitMix64(parent.next()).next()


def test_uniform_covers_its_range():
    generator = SplitMix64(0)
    values = [generator.uniform() for _ in range(4000)]
    assert 0 <= min(values) < 0.01
    assert 0.99 < max(values) < 1
    assert abs(sum(values) / len(values) - 0.5) < 0.02

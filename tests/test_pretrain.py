"""What `pretask train` does around the training itself."""

from dataclasses import replace

from pretask.pretrain import few


def test_what_ends_a_training_is_bounded(embedded):
    """A million pictures are not encoded three times over; a graph is not cut."""
    some = few(embedded, 50)
    assert len(some) == 50 and few(embedded, len(embedded)) is embedded
    assert some.rows.tolist() == sorted(some.rows.tolist()) and some.rows[-1] >= embedded.rows[-2]
    whole = replace(embedded, connected=True)
    assert few(whole, 50) is whole

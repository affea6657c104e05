"""Training of whatever family: how a run begins, goes on, keeps what it did and ends."""

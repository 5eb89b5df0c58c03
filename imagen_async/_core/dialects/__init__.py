"""How the two kinds of API talk, as pure functions over plain values."""

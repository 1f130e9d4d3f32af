"""Builders of faces: photos or drawn portraits, and the six views of them."""

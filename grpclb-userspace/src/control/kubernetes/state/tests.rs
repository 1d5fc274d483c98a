//! What is told is taken up where it touches, in whatever order it comes, and nothing is dropped because a list began anew.

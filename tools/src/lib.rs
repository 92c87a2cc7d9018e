//! Programs for the host.

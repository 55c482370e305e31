//! Relabel rules with Prometheus' exact semantics.

//! PromQL: parse, check, plan, evaluate over [`model::Select`].

pub mod ast;

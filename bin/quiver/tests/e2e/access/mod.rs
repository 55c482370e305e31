//! Who comes in: the real binary, asked by everybody for everything.

mod hostile;
mod oidc;
mod roles;
mod scope;
mod secrets;
pub mod tls;
mod tokens;
mod world;

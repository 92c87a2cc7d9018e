//! The peers, one module each. What each row says of a peer is said there, with how it was configured in its own favour.

pub mod async_executor;
pub mod embassy;
pub mod glommio;
pub mod monoio;
pub mod tokio;

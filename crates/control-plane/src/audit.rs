//! tmp
use crate::store::Store; use std::sync::Arc;
/// tmp
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct AuditError;
/// tmp
pub struct Audit;
impl Audit { /// tmp
 pub fn new(_s: Arc<dyn Store>) -> Self { Audit } }

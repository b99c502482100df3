//! What a control plane asks of a node. In one process it is a plain call; between processes, the same trait over
//! a transport.

pub mod v1;

//! What a profile becomes on a VM: the plan, step by step.

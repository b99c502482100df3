//! Each knob: the effect is there in the guest's own files, and undo restores exactly what was.

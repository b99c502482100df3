//! A guest without a kernel: a boot sector that says `ready` to the first serial port, waits for a byte from there,
//! says `bye` and powers off.

/// 16-bit code, loaded at 0x7c00.
const CODE: [u8; 42] = [
    0xbe, 0x2a, 0x7c, // mov si, 0x7c2a: the first text, behind the code
    0xe8, 0x18, 0x00, // call say
    0xba, 0xfd, 0x03, // mov dx, 0x3fd: the port's line status
    0xec, // wait: in al, dx
    0xa8, 0x01, // test al, 1: a byte is there
    0x74, 0xfb, // jz wait
    0xbe, 0x32, 0x7c, // mov si, 0x7c32: the second text
    0xe8, 0x0a, 0x00, // call say
    0xba, 0x04, 0x06, // mov dx, 0x604: PM1a control, where SeaBIOS puts it
    0xb8, 0x00, 0x20, // mov ax, 0x2000: sleep, type 0 is off
    0xef, // out dx, ax
    0xf4, // halt: hlt
    0xeb, 0xfd, // jmp halt
    0xba, 0xf8, 0x03, // say: mov dx, 0x3f8
    0xac, // again: lodsb
    0x84, 0xc0, // test al, al
    0x74, 0x03, // jz done
    0xee, // out dx, al
    0xeb, 0xf8, // jmp again
    0xc3, // done: ret
];

const TEXTS: &[u8] = b"ready\r\n\0bye\r\n\0";

/// Its disk, raw.
pub fn disk() -> Vec<u8> {
    let mut disk = vec![0u8; 1 << 20];
    disk[..CODE.len()].copy_from_slice(&CODE);
    disk[CODE.len()..CODE.len() + TEXTS.len()].copy_from_slice(TEXTS);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

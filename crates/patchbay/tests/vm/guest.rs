//! Guests of a few bytes: they say a word on the serial console and then do one thing.
//!
//! Ports are those of a q35 machine: serial 0x3f8, power management 0x600 (where the firmware puts it), reset 0xcf9.

/// What every guest says when it starts.
pub(crate) const HELLO: &str = "hello";

/// What a guest does after its hello.
#[derive(Clone, Copy)]
pub(crate) enum Then {
    /// Sleeps for ever.
    Sleep,
    /// Switches itself off.
    PowerOff,
    /// Waits for its power button and switches itself off then.
    PowerOffWhenAsked,
    /// Resets itself.
    Reset,
}

impl Then {
    /// The machine code for it, 16 bit.
    fn code(self) -> Vec<u8> {
        // mov dx, 0x604; mov ax, 0x2000 (sleep enable, type 0); out dx, ax
        const OFF: [u8; 7] = [0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef];
        // hlt; jmp to it
        const HALT: [u8; 3] = [0xf4, 0xeb, 0xfd];
        // mov dx, 0x600; again: in ax, dx; test ah, 1; jz again
        const BUTTON: [u8; 9] = [0xba, 0x00, 0x06, 0xed, 0xf6, 0xc4, 0x01, 0x74, 0xfa];
        // mov dx, 0xcf9; mov al, 6; out dx, al
        const RESET: [u8; 6] = [0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee];
        match self {
            Self::Sleep => HALT.to_vec(),
            Self::PowerOff => [&OFF[..], &HALT].concat(),
            Self::PowerOffWhenAsked => [&BUTTON[..], &OFF, &HALT].concat(),
            Self::Reset => [&RESET[..], &HALT].concat(),
        }
    }

    /// A disk whose first sector is the guest.
    pub(crate) fn disk(self) -> Vec<u8> {
        let mut sector = vec![
            0xfa, // cli
            0x31, 0xc0, 0x8e, 0xd8, // ds = 0
            0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef, // let the power button be seen: out 0x602, 0x100
            0xbe, 0x00, 0x00, // mov si, the text's address (below)
            0xac, 0x84, 0xc0, 0x74, 0x0e, // next: lodsb; test al, al; jz done
            0xba, 0xf8, 0x03, 0xee, // mov dx, 0x3f8; out dx, al
            0xba, 0xfd, 0x03, 0xec, 0xa8, 0x20, 0x74, 0xfb, // wait until it is sent
            0xeb, 0xed, // jmp next
        ];
        sector.extend(self.code());
        let text = u16::try_from(0x7c00 + sector.len()).unwrap();
        sector[13..15].copy_from_slice(&text.to_le_bytes());
        sector.extend(format!("{HELLO}\n\0").bytes());
        sector.resize(510, 0);
        sector.extend([0x55, 0xaa]);
        // The firmware does not read from disks that are smaller than a cylinder.
        sector.resize(2 << 20, 0);
        sector
    }
}

/// A kernel, in the Multiboot format, that says hello and then prints dots for ever.
pub(crate) fn dotting_kernel() -> Vec<u8> {
    const AT: u32 = 0x10_0000;
    const FLAGS: u32 = 0x1_0000;
    const MAGIC: u32 = 0x1bad_b002;
    let checksum = 0_u32.wrapping_sub(MAGIC).wrapping_sub(FLAGS);
    let header = [MAGIC, FLAGS, checksum, AT, AT, 0, 0, AT + 32];
    let mut kernel: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    for byte in format!("{HELLO}\n").bytes() {
        kernel.extend([0x66, 0xba, 0xf8, 0x03, 0xb0, byte, 0xee]); // mov dx, 0x3f8; mov al, byte; out dx, al
    }
    kernel.extend([
        0xb0, b'.', 0xee, // next: mov al, '.'; out dx, al
        0xb9, 0x00, 0x00, 0x80, 0x00, // mov ecx, 0x800000
        0x49, 0x75, 0xfd, // again: dec ecx; jnz again
        0xeb, 0xf3, // jmp next
    ]);
    kernel
}

//! A client that speaks the protocol byte by byte, and so can get it wrong.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use afterimage_nbd::{ListenAddress, Server};

use crate::SIZE;

pub(crate) struct Raw(pub(crate) TcpStream);

/// A chunk of a structured reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) last: bool,
    pub(crate) kind: u16,
    pub(crate) cookie: u64,
    pub(crate) payload: Vec<u8>,
}

impl Raw {
    /// Connects and answers the greeting.
    pub(crate) fn greeted(server: &Server) -> Self {
        Self::greeted_with(server, 3)
    }

    pub(crate) fn greeted_with(server: &Server, flags: u32) -> Self {
        let ListenAddress::Tcp(address) = server.local_address() else {
            panic!("served over TCP")
        };
        let mut stream = TcpStream::connect(address).unwrap();
        let patience = Some(Duration::from_secs(20));
        stream.set_read_timeout(patience).unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"NBDMAGICIHAVEOPT\0\x03");
        stream.write_all(&flags.to_be_bytes()).unwrap();
        Self(stream)
    }

    /// Goes through the handshake by EXPORT_NAME: simple replies.
    pub(crate) fn simple(server: &Server) -> Self {
        let mut raw = Self::greeted(server);
        raw.option(1, b"disk");
        let facts: [u8; 10] = raw.read();
        assert_eq!(facts[..8], SIZE.get().to_be_bytes());
        raw
    }

    /// Goes through the handshake by GO: structured replies and `base:allocation`.
    pub(crate) fn structured(server: &Server) -> Self {
        let mut raw = Self::greeted(server);
        raw.option(8, b"");
        assert_eq!(raw.option_reply().0, 1);
        raw.option(10, b"\0\0\0\x04disk\0\0\0\x01\0\0\0\x0fbase:allocation");
        assert_eq!(raw.option_reply().0, 4);
        assert_eq!(raw.option_reply().0, 1);
        raw.option(7, b"\0\0\0\x04disk\0\0");
        while raw.option_reply().0 != 1 {}
        raw
    }

    pub(crate) fn read<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn payload(&mut self, length: u32) -> Vec<u8> {
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).unwrap();
        payload
    }

    pub(crate) fn option(&mut self, option: u32, payload: &[u8]) {
        self.option_header(option, u32::try_from(payload.len()).unwrap());
        self.0.write_all(payload).unwrap();
    }

    pub(crate) fn option_header(&mut self, option: u32, length: u32) {
        let mut frame = b"IHAVEOPT".to_vec();
        frame.extend(option.to_be_bytes());
        frame.extend(length.to_be_bytes());
        self.0.write_all(&frame).unwrap();
    }

    /// The kind and the payload of a reply to an option.
    pub(crate) fn option_reply(&mut self) -> (u32, Vec<u8>) {
        assert_eq!(u64::from_be_bytes(self.read()), 0x0003_e889_0455_65a9);
        let _option: [u8; 4] = self.read();
        let kind = u32::from_be_bytes(self.read());
        let length = u32::from_be_bytes(self.read());
        (kind, self.payload(length))
    }

    pub(crate) fn request(&mut self, what: (u16, u16), cookie: u64, range: (u64, u32)) {
        self.0.write_all(&request(what, cookie, range)).unwrap();
    }

    /// Sends a WRITE with its payload.
    pub(crate) fn write(&mut self, flags: u16, cookie: u64, offset: u64, data: &[u8]) {
        let length = u32::try_from(data.len()).unwrap();
        self.request((flags, 1), cookie, (offset, length));
        self.0.write_all(data).unwrap();
    }

    /// The error and the cookie of a simple reply without data.
    pub(crate) fn reply(&mut self) -> (u32, u64) {
        assert_eq!(u32::from_be_bytes(self.read()), 0x6744_6698);
        let error = u32::from_be_bytes(self.read());
        (error, u64::from_be_bytes(self.read()))
    }

    /// The next chunk of a structured reply.
    pub(crate) fn chunk(&mut self) -> Chunk {
        assert_eq!(u32::from_be_bytes(self.read()), 0x668e_33ef);
        let flags = u16::from_be_bytes(self.read());
        let kind = u16::from_be_bytes(self.read());
        let cookie = u64::from_be_bytes(self.read());
        let length = u32::from_be_bytes(self.read());
        Chunk {
            last: flags & 1 != 0,
            kind,
            cookie,
            payload: self.payload(length),
        }
    }

    /// Whether the server hangs up without another word.
    pub(crate) fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    pub(crate) fn half_close(&self) {
        self.0.shutdown(Shutdown::Write).unwrap();
    }
}

/// The frame of a request: flags and command, cookie, offset and length.
pub(crate) fn request(
    (flags, command): (u16, u16),
    cookie: u64,
    (offset, length): (u64, u32),
) -> Vec<u8> {
    let mut frame = 0x2560_9513_u32.to_be_bytes().to_vec();
    frame.extend(flags.to_be_bytes());
    frame.extend(command.to_be_bytes());
    frame.extend(cookie.to_be_bytes());
    frame.extend(offset.to_be_bytes());
    frame.extend(length.to_be_bytes());
    frame
}

//! Payloads as they are stored in a log: plain, compressed, encrypted.

use std::borrow::Cow;

use afterimage_block::Length;
use bytes::Bytes;

use crate::cipher::Cipher;
use crate::compress::{compress, decompress};
use crate::header::Head;
use crate::record::{Fields, Kind};
use crate::{Error, Form, Keys, LogHeader, RecordHeader, Result};

/// Turns records of one log into bytes and bytes into records.
#[derive(Clone, Debug)]
pub(crate) struct Codec {
    head: Head,
    salt: u32,
    cipher: Option<Cipher>,
}

impl Codec {
    /// That of the log that begins with `bytes`.
    ///
    /// # Errors
    /// As [`Head::parse`]; [`Error::NoKey`], [`Error::NoCipher`], [`Error::NoCompression`].
    pub(crate) fn of(bytes: &[u8], keys: &Keys) -> Result<Self> {
        Self::with_keys(Head::parse(bytes)?, keys)
    }

    /// That of a log whose records are stored as they are.
    pub(crate) fn plain(header: LogHeader) -> Self {
        let head = Head::plain(header);
        let (salt, cipher) = (head.checksum(), None);
        Self { head, salt, cipher }
    }

    /// That of the log with this header.
    pub(crate) fn with_keys(head: Head, keys: &Keys) -> Result<Self> {
        if head.form.compressed && cfg!(not(feature = "lz4")) {
            return Err(Error::NoCompression);
        }
        let cipher = head.form.key.map(|key| Cipher::find(keys, &head, key));
        let (salt, cipher) = (head.checksum(), cipher.transpose()?);
        Ok(Self { head, salt, cipher })
    }

    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    pub(crate) fn header(&self) -> &LogHeader {
        &self.head.header
    }

    pub(crate) fn form(&self) -> Form {
        self.head.form
    }

    /// What makes the tags of the footer, if it has any.
    pub(crate) fn footer_cipher(&self) -> Option<&Cipher> {
        self.cipher.as_ref().filter(|_| self.head.tagged)
    }

    /// The most bytes that a stored payload has more than the record holds.
    pub(crate) fn overhead(&self) -> usize {
        self.cipher.as_ref().map_or(0, |_| Cipher::TAG)
    }

    /// A record's header, and its payload as it is to be stored.
    pub(crate) fn encode<'a>(
        &self,
        fields: Fields,
        payload: &'a [u8],
    ) -> ([u8; RecordHeader::LEN], Cow<'a, [u8]>) {
        let block = (self.head.form.compressed && fields.kind == Kind::Write)
            .then(|| compress(payload))
            .flatten();
        let compressed = block.is_some();
        let mut stored = block.map_or(Cow::Borrowed(payload), Cow::Owned);
        let length = stored.len() + self.overhead();
        let mut header = RecordHeader::encode(fields, compressed, length);
        if let Some(cipher) = &self.cipher {
            let mut secret = Vec::with_capacity(length);
            secret.extend_from_slice(&stored);
            cipher.encrypt(fields.lsn, RecordHeader::fields(&header), &mut secret);
            stored = Cow::Owned(secret);
        }
        RecordHeader::seal(&mut header, &stored, self.salt);
        (header, stored)
    }

    /// The record's header in `bytes`, which stand at `at`. Nothing is proved yet.
    pub(crate) fn parse(&self, bytes: &[u8; RecordHeader::LEN], at: u64) -> Result<RecordHeader> {
        let size: Length = self.head.header.disk_size;
        RecordHeader::parse_as(bytes, at, size, self.head.form)
    }

    fn verify(
        &self,
        (header, bytes): (&RecordHeader, &[u8; RecordHeader::LEN]),
        payload: &[u8],
    ) -> Result<(), &'static str> {
        if header.verify(bytes, payload, self.salt) {
            Ok(())
        } else {
            Err("the record's checksum does not match")
        }
    }

    /// Proves a record; gives what was logged, without a copy if it is stored as it is.
    pub(crate) fn open(
        &self,
        record: (&RecordHeader, &[u8; RecordHeader::LEN]),
        stored: Bytes,
    ) -> Result<Bytes, &'static str> {
        if !record.0.compressed && !record.0.encrypted {
            return self.verify(record, &stored).map(|()| stored);
        }
        let mut payload = stored.to_vec();
        self.decode(record, &mut payload)?;
        Ok(payload.into())
    }

    /// Proves a record, and makes of its payload what was logged.
    pub(crate) fn decode(
        &self,
        (header, bytes): (&RecordHeader, &[u8; RecordHeader::LEN]),
        payload: &mut Vec<u8>,
    ) -> Result<(), &'static str> {
        self.verify((header, bytes), payload)?;
        if let Some(cipher) = &self.cipher
            && !cipher.decrypt(header.lsn, RecordHeader::fields(bytes), payload)
        {
            return Err("the record is not what was encrypted");
        }
        if header.compressed {
            let length = header.extent.and_then(|extent| extent.length().to_usize());
            let data = decompress(payload, length.unwrap_or_default());
            *payload = data.ok_or("the record's payload does not decompress to its length")?;
        }
        Ok(())
    }
}

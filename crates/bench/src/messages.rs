//! The etcd requests of the loads, written straight into a buffer, and the few fields the loads
//! read back. The generated types allocate per message; these do not.

use anyhow::{Context, Result, bail};

pub mod path {
    pub const RANGE: &str = "/etcdserverpb.KV/Range";
    pub const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
    pub const PUT: &str = "/etcdserverpb.KV/Put";
    pub const TXN: &str = "/etcdserverpb.KV/Txn";
    pub const WATCH: &str = "/etcdserverpb.Watch/Watch";
    pub const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
    pub const LEASE_KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn bytes_len(bytes: &[u8]) -> usize {
    1 + varint_len(bytes.len() as u64) + bytes.len()
}

fn bytes_field(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn int_field(number: u8, value: u64, out: &mut Vec<u8>) {
    out.push(number << 3);
    varint(value, out);
}

pub fn put(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    bytes_field(1, key, out);
    bytes_field(2, value, out);
}

pub fn range(key: &[u8], range_end: &[u8], limit: u64, serializable: bool, out: &mut Vec<u8>) {
    bytes_field(1, key, out);
    if !range_end.is_empty() {
        bytes_field(2, range_end, out);
    }
    if limit > 0 {
        int_field(3, limit, out);
    }
    if serializable {
        int_field(7, 1, out);
    }
}

/// If `key` still has `mod_revision`, put it, else read it: what a controller's update is.
pub fn update_txn(key: &[u8], mod_revision: u64, value: &[u8], out: &mut Vec<u8>) {
    const MOD: u64 = 2;
    let compare_len = 2 + bytes_len(key) + 1 + varint_len(mod_revision);
    out.push(1 << 3 | 2);
    varint(compare_len as u64, out);
    int_field(2, MOD, out);
    bytes_field(3, key, out);
    int_field(6, mod_revision, out);

    let put_len = bytes_len(key) + bytes_len(value);
    out.push(2 << 3 | 2);
    varint((1 + varint_len(put_len as u64) + put_len) as u64, out);
    out.push(2 << 3 | 2);
    varint(put_len as u64, out);
    put(key, value, out);

    let range_len = bytes_len(key);
    out.push(3 << 3 | 2);
    varint((1 + varint_len(range_len as u64) + range_len) as u64, out);
    out.push(1 << 3 | 2);
    varint(range_len as u64, out);
    bytes_field(1, key, out);
}

pub fn watch_create(key: &[u8], watch_id: u64, out: &mut Vec<u8>) {
    let len = bytes_len(key) + 1 + varint_len(watch_id);
    out.push(1 << 3 | 2);
    varint(len as u64, out);
    bytes_field(1, key, out);
    int_field(7, watch_id, out);
}

pub fn lease_grant(ttl_seconds: u64, out: &mut Vec<u8>) {
    int_field(1, ttl_seconds, out);
}

pub fn lease_keep_alive(id: u64, out: &mut Vec<u8>) {
    int_field(1, id, out);
}

/// A field of a received message: a number or a piece of it.
pub enum Field<'a> {
    Int(u64),
    Bytes(&'a [u8]),
}

/// Walks the fields of one message.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// The next field's number and content. Errors when the bytes are no message.
    pub fn next(&mut self) -> Result<Option<(u64, Field<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Int(self.varint()?),
            2 => {
                let len = self.varint()? as usize;
                Field::Bytes(self.take(len)?)
            }
            1 => Field::Bytes(self.take(8)?),
            5 => Field::Bytes(self.take(4)?),
            wire => bail!("wire type {wire} in an answer"),
        };
        Ok(Some((tag >> 3, field)))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len).context("an answer's field is longer than the answer")?;
        self.0 = rest;
        Ok(head)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().context("an answer ends inside a number")?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        bail!("a number of an answer is too long")
    }
}

/// The content of the first field `number`, if there is one.
pub fn bytes_of(message: &[u8], number: u64) -> Result<Option<&[u8]>> {
    let mut fields = Fields(message);
    while let Some((n, field)) = fields.next()? {
        if let (true, Field::Bytes(bytes)) = (n == number, field) {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// Integer field `number`; 0 when absent, as the wire has it.
pub fn int_of(message: &[u8], number: u64) -> Result<u64> {
    let mut fields = Fields(message);
    while let Some((n, field)) = fields.next()? {
        if let (true, Field::Int(value)) = (n == number, field) {
            return Ok(value);
        }
    }
    Ok(0)
}

/// The revision in an answer's header; field 1 of every answer.
pub fn header_revision(answer: &[u8]) -> Result<u64> {
    let header = bytes_of(answer, 1)?.context("an answer without a header")?;
    int_of(header, 3)
}

/// The mod revision in the first key of the range answer inside a refused update, 0 if it has none.
pub fn refused_mod_revision(txn_answer: &[u8]) -> Result<u64> {
    let mut inner = Some(txn_answer);
    // TxnResponse.responses, ResponseOp.response_range, RangeResponse.kvs
    for number in [3, 1, 2] {
        inner = match inner {
            Some(message) => bytes_of(message, number)?,
            None => None,
        };
    }
    inner.map_or(Ok(0), |kv| int_of(kv, 3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netsy_api::etcdserverpb as pb;
    use prost::Message;

    #[test]
    fn requests_are_those_of_the_generated_types() {
        for revision in [0, 1, 127, 128, 1 << 40] {
            let (key, value) = (vec![b'k'; 40], vec![b'v'; 300]);
            let mut out = Vec::new();
            update_txn(&key, revision, &value, &mut out);
            let txn = pb::TxnRequest::decode(&out[..]).unwrap();
            assert_eq!(txn.compare.len(), 1);
            assert_eq!(txn.compare[0].target, pb::compare::CompareTarget::Mod as i32);
            assert_eq!(txn.compare[0].target_union, Some(pb::compare::TargetUnion::ModRevision(revision as i64)));
            let Some(pb::request_op::Request::RequestPut(put)) = &txn.success[0].request else { panic!("{txn:?}") };
            assert_eq!((&put.key[..], &put.value[..]), (&key[..], &value[..]));
            let Some(pb::request_op::Request::RequestRange(range)) = &txn.failure[0].request else { panic!("{txn:?}") };
            assert_eq!(range.key, key);
        }
        let mut out = Vec::new();
        range(b"a", b"b", 500, true, &mut out);
        let decoded = pb::RangeRequest::decode(&out[..]).unwrap();
        assert_eq!((decoded.limit, decoded.serializable, &decoded.range_end[..]), (500, true, &b"b"[..]));
        out.clear();
        watch_create(b"key", 300, &mut out);
        match pb::WatchRequest::decode(&out[..]).unwrap().request_union {
            Some(pb::watch_request::RequestUnion::CreateRequest(create)) => {
                assert_eq!((&create.key[..], create.watch_id), (&b"key"[..], 300))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn answers_are_read_back() {
        let header = Some(pb::ResponseHeader { revision: 1 << 33, ..Default::default() });
        let kv = netsy_api::mvccpb::KeyValue { mod_revision: 77, ..Default::default() };
        let range = pb::RangeResponse { kvs: vec![kv], ..Default::default() };
        let op = pb::ResponseOp { response: Some(pb::response_op::Response::ResponseRange(range)) };
        let txn = pb::TxnResponse { header, succeeded: false, responses: vec![op] }.encode_to_vec();
        assert_eq!(header_revision(&txn).unwrap(), 1 << 33);
        assert_eq!(refused_mod_revision(&txn).unwrap(), 77);
        assert_eq!(int_of(&txn, 2).unwrap(), 0);
        for cut in 1..txn.len() {
            let _ = refused_mod_revision(&txn[..cut]);
        }
    }
}

//! The answer of a range, encoded straight from the node's result.
//!
//! Long answers are made piece by piece as the client takes them: the result's keys and values are
//! shared with the store, so a long list costs memory for a piece, not for a second copy of itself.

use crate::grpc::message::PREFIX_BYTES;
use crate::grpc::pieces::PieceBuffer;
use crate::grpc::reply::{Body, put_prefix};
use crate::grpc::status::{Code, Status};
use bytes::{BufMut, Bytes, BytesMut};
use netsy_api::etcdserverpb::ResponseHeader;
use netsy_mvcc::{KvRef, RangeResult, ValueRef};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use tokio::sync::OwnedSemaphorePermit;

/// Answers up to this size are made in one piece.
const PIECE_BYTES: usize = PieceBuffer::BYTES;
/// A value from this size on is sent as it lies in memory, without being copied into a piece.
const OWN_PIECE_BYTES: usize = 32 << 10;
/// The most bytes of a message that gRPC peers take.
const MESSAGE_BYTES_MAX: usize = i32::MAX as usize;

/// Encodes the answer of a range. `slot` is held until all of it is sent.
pub(crate) fn range_response(
    header: ResponseHeader,
    result: RangeResult,
    slot: Option<OwnedSemaphorePermit>,
) -> Result<Body, Status> {
    let RangeResult { kvs, more, count, .. } = result;
    let header_len = header.encoded_len();
    let kvs_len: usize = kvs.iter().map(|kv| field_len(kv_len(kv))).sum();
    let more_len = if more { 2 } else { 0 };
    let count_len = if count != 0 { 1 + encoded_len_varint(count as u64) } else { 0 };
    let length = field_len(header_len) + kvs_len + more_len + count_len;
    if length > MESSAGE_BYTES_MAX {
        return Err(Status::new(
            Code::ResourceExhausted,
            format!("grpc: trying to send message larger than max ({length} vs. {MESSAGE_BYTES_MAX})"),
        ));
    }
    let put_head = |out: &mut dyn BufMut| {
        let mut out = out;
        put_prefix(&mut out, length);
        encode_key(1, WireType::LengthDelimited, &mut out);
        encode_varint(header_len as u64, &mut out);
        header.encode_raw(&mut out);
    };
    let tail = Tail { more, count };
    if length <= PIECE_BYTES {
        let mut out = BytesMut::with_capacity(PREFIX_BYTES + length);
        put_head(&mut out);
        for kv in &kvs {
            put_kv_head(kv, &mut out);
            out.put_slice(value_of(kv));
            put_kv_tail(kv, &mut out);
        }
        tail.put(&mut out);
        return Ok(Body::Whole(out.freeze()));
    }
    let mut out = PieceBuffer::take();
    put_head(out.bytes());
    Ok(Body::Pieces(Box::new(Pieces { kvs: kvs.into_iter(), out, own: None, tail: Some(tail), _slot: slot })))
}

struct Tail {
    more: bool,
    count: i64,
}

impl Tail {
    fn put(&self, out: &mut impl BufMut) {
        if self.more {
            out.put_slice(&[3 << 3, 1]);
        }
        if self.count != 0 {
            out.put_u8(4 << 3);
            encode_varint(self.count as u64, out);
        }
    }
}

struct Pieces {
    kvs: std::vec::IntoIter<KvRef>,
    out: PieceBuffer,
    /// A large value that comes next, and what follows it.
    own: Option<(Bytes, KvRef)>,
    tail: Option<Tail>,
    _slot: Option<OwnedSemaphorePermit>,
}

impl Pieces {
    fn hand_out(&mut self) -> Bytes {
        std::mem::replace(&mut self.out, PieceBuffer::take()).freeze()
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if let Some((value, kv)) = self.own.take() {
            put_kv_tail(&kv, self.out.bytes());
            return Some(value);
        }
        let out = self.out.bytes();
        while out.len() < PIECE_BYTES {
            let Some(kv) = self.kvs.next() else { break };
            put_kv_head(&kv, out);
            match &kv.value {
                ValueRef::Here(value) if value.len() >= OWN_PIECE_BYTES => {
                    self.own = Some((value.clone(), kv));
                    return Some(self.hand_out());
                }
                _ => out.put_slice(value_of(&kv)),
            }
            put_kv_tail(&kv, out);
        }
        if out.len() < PIECE_BYTES {
            if let Some(tail) = self.tail.take() {
                tail.put(out);
            }
            if out.is_empty() {
                return None;
            }
        }
        Some(self.hand_out())
    }
}

fn value_of(kv: &KvRef) -> &[u8] {
    match &kv.value {
        ValueRef::Here(value) => value,
        // Results are resolved before they come here; keys_only leaves values out.
        ValueRef::Stored(_) | ValueRef::Omitted => &[],
    }
}

/// Length of a length-delimited field of `length` bytes with a one-byte tag.
fn field_len(length: usize) -> usize {
    1 + encoded_len_varint(length as u64) + length
}

fn bytes_len(bytes: &[u8]) -> usize {
    if bytes.is_empty() { 0 } else { field_len(bytes.len()) }
}

fn int_len(number: i64) -> usize {
    if number == 0 { 0 } else { 1 + encoded_len_varint(number as u64) }
}

/// Length of the KeyValue message.
pub(crate) fn kv_len(kv: &KvRef) -> usize {
    bytes_len(&kv.key)
        + int_len(kv.create_revision.0)
        + int_len(kv.mod_revision.0)
        + int_len(kv.version)
        + bytes_len(value_of(kv))
        + int_len(kv.lease.0)
}

/// The `kvs` field up to where the value's bytes stand.
fn put_kv_head(kv: &KvRef, out: &mut impl BufMut) {
    out.put_u8(2 << 3 | 2);
    encode_varint(kv_len(kv) as u64, out);
    if !kv.key.is_empty() {
        out.put_u8(1 << 3 | 2);
        encode_varint(kv.key.len() as u64, out);
        out.put_slice(&kv.key);
    }
    put_int(2, kv.create_revision.0, out);
    put_int(3, kv.mod_revision.0, out);
    put_int(4, kv.version, out);
    let value = value_of(kv);
    if !value.is_empty() {
        out.put_u8(5 << 3 | 2);
        encode_varint(value.len() as u64, out);
    }
}

/// What follows the value's bytes.
fn put_kv_tail(kv: &KvRef, out: &mut impl BufMut) {
    put_int(6, kv.lease.0, out);
}

fn put_int(tag: u8, number: i64, out: &mut impl BufMut) {
    if number != 0 {
        out.put_u8(tag << 3);
        encode_varint(number as u64, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netsy_api::etcdserverpb::RangeResponse;
    use netsy_api::ids::{LeaseId, Revision};
    use proptest::prelude::*;

    fn decode(body: Body) -> RangeResponse {
        let bytes: Vec<u8> = match body {
            Body::Whole(bytes) => bytes.to_vec(),
            Body::Pieces(pieces) => pieces.flatten().collect(),
        };
        assert_eq!(bytes[0], 0);
        let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
        assert_eq!(length, bytes.len() - PREFIX_BYTES);
        RangeResponse::decode(&bytes[PREFIX_BYTES..]).unwrap()
    }

    fn kv() -> impl Strategy<Value = KvRef> {
        let value = prop_oneof![
            4 => (0..300usize).prop_map(|n| ValueRef::Here(vec![b'v'; n].into())),
            1 => (20_000..90_000usize).prop_map(|n| ValueRef::Here(vec![b'w'; n].into())),
            1 => Just(ValueRef::Omitted),
        ];
        (prop::collection::vec(any::<u8>(), 0..40), any::<[i64; 4]>(), any::<u8>(), value).prop_map(
            |(key, numbers, zeroes, value)| {
                let number = |i: usize| if zeroes >> i & 1 == 1 { 0 } else { numbers[i] };
                KvRef {
                    key: key.into(),
                    create_revision: Revision(number(0)),
                    mod_revision: Revision(number(1)),
                    version: number(2),
                    lease: LeaseId(number(3)),
                    value,
                }
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, fork: false, ..Default::default() })]

        #[test]
        fn decodes_to_what_went_in(
            kvs in prop::collection::vec(kv(), 0..60), more: bool, count: i64, revision: i64,
        ) {
            let header = ResponseHeader { cluster_id: u64::MAX, member_id: 3, revision, raft_term: 0 };
            let expected = RangeResponse {
                header: Some(header),
                kvs: kvs.iter().map(super::super::kv_messages::key_value).collect(),
                more,
                count,
            };
            let result = RangeResult { kvs, more, count, header_revision: Revision(revision) };
            let body = range_response(header, result, None).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(decode(body), expected);
        }
    }
}

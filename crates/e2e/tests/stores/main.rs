//! The program with each kind of object store: real S3 servers on loopback (`scripts/tools.sh` installs them) and the
//! fakes of S3 and Google Cloud Storage, with faults. What is written is killed, its local database wiped, and restored:
//! every key, revision and lease must be as before.

mod everything;
mod inspect;
mod restore;
mod setup;
mod twins;
mod wrong;

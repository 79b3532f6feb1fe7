//! Is this folder on a file system that the file provider can rely on?

use std::path::Path;

use super::super::fs_ops::read_text;

/// Kernel file systems behind a network: their locks, exclusive names and syncs do not
/// hold between machines the way they do on one. (linux/magic.h and the file systems' own headers)
const NETWORK_MAGIC: &[(u64, &str)] = &[
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x517b, "smb"),
    (0x00c3_6400, "ceph"),
    (0x5346_414f, "afs"),
    (0x6b41_4653, "kafs"),
    (0x7375_7245, "coda"),
    (0x0bd0_0bd0, "lustre"),
    (0x4750_4653, "gpfs"),
    (0x2003_0528, "orangefs"),
    (0x564c, "ncp"),
    (0x0116_1970, "gfs2"),
    (0x7461_636f, "ocfs2"),
    (0x1980_0202, "beegfs"),
];

const FUSE_MAGIC: u64 = 0x6573_5546;

/// FUSE says nothing about what is behind it, but these names do.
const NETWORK_FUSE: &[&str] = &[
    "sshfs",
    "s3fs",
    "rclone",
    "juicefs",
    "gcsfuse",
    "goofys",
    "geesefs",
    "mount-s3",
    "glusterfs",
    "ceph",
    "cephfs",
    "curlftpfs",
    "davfs",
    "davfs2",
    "seaweedfs",
    "hdfs",
    "blobfuse",
    "blobfuse2",
    "moosefs",
    "mfs",
    "s3backer",
    "smbnetfs",
    "bindfs-nfs",
    "nfs",
];

/// The name of the network file system that `folder` is on, if it is on one.
#[cfg(target_os = "linux")]
pub(crate) fn network_file_system(folder: &Path) -> std::io::Result<Option<String>> {
    let stat = rustix::fs::statfs(folder)?;
    // The type of f_type differs between platforms; only its low 32 bits are ever used.
    let magic = stat.f_type as u64 & 0xffff_ffff;
    if let Some((_, name)) = NETWORK_MAGIC.iter().find(|(m, _)| *m == magic) {
        return Ok(Some((*name).to_string()));
    }
    if magic != FUSE_MAGIC {
        return Ok(None);
    }
    let folder = folder.canonicalize()?;
    let mounts = read_text(Path::new("/proc/self/mountinfo"))?;
    Ok(network_fuse(&mounts, &folder))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn network_file_system(_folder: &Path) -> std::io::Result<Option<String>> {
    Ok(None)
}

/// Finds the mount that holds `folder` in the text of `mountinfo` (proc(5)) and says its
/// type if that is a FUSE file system with a network behind it.
fn network_fuse(mounts: &str, folder: &Path) -> Option<String> {
    let mut best: Option<(usize, &str)> = None;
    for line in mounts.lines() {
        let (before, after) = line.split_once(" - ")?;
        let point = unescape(before.split(' ').nth(4)?);
        let kind = after.split(' ').next()?;
        let depth = Path::new(&point).components().count();
        // The later of two mounts on one point hides the earlier.
        if folder.starts_with(&point) && best.is_none_or(|(d, _)| depth >= d) {
            best = Some((depth, kind));
        }
    }
    let kind = best?.1.strip_prefix("fuse.")?;
    NETWORK_FUSE.contains(&kind).then(|| format!("fuse.{kind}"))
}

/// `mountinfo` writes space, tab, newline and backslash as `\` and three octal digits.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 252:0 / / rw,relatime - ext4 /dev/vda rw
40 22 0:40 / /mnt/far\\040away rw - fuse.sshfs u@h:/x rw
41 22 0:41 / /mnt/near rw - fuse.gocryptfs /x rw
42 41 0:42 / /mnt/near/bucket rw,nosuid shared:5 - fuse.s3fs s3fs rw
";

    #[test]
    fn fuse_mounts_with_a_network_behind_them_are_told_from_others() {
        let of = |p: &str| network_fuse(MOUNTS, Path::new(p));
        assert_eq!(of("/mnt/far away/x").as_deref(), Some("fuse.sshfs"));
        assert_eq!(of("/mnt/near/x"), None);
        assert_eq!(of("/mnt/near/bucket/x").as_deref(), Some("fuse.s3fs"));
        assert_eq!(of("/mnt/nearby"), None);
        assert_eq!(of("/home"), None);
    }

    #[test]
    fn this_machines_temporary_folder_is_local() {
        assert_eq!(network_file_system(&std::env::temp_dir()).unwrap(), None);
    }
}

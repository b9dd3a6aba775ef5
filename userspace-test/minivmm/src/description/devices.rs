// SPDX-License-Identifier: GPL-2.0

//! Devices as options name them (`--disk PATH,ro`) and as tables of the file do.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;

/// CIDs that are nobody's to have: the hypervisor, the machine itself, the host (include/uapi/linux
/// /vm_sockets.h), and the one that stands for any.
const FIRST_CID: u32 = 3;
const LAST_CID: u32 = u32::MAX - 1;
/// Bytes of an interface's name at most (IFNAMSIZ, less the zero at the end).
const INTERFACE_NAME: usize = 15;

/// A disk and its image.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Disk {
    /// The raw image.
    pub path: PathBuf,
    /// Whether the guest must not write.
    #[serde(default)]
    pub read_only: bool,
}

impl FromStr for Disk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A comma within the path is part of it.
        let (path, read_only) = match text.strip_suffix(",ro") {
            Some(path) => (path, true),
            None => (text, false),
        };
        if path.is_empty() {
            return Err("a disk is PATH or PATH,ro".into());
        }
        Ok(Self {
            path: path.into(),
            read_only,
        })
    }
}

/// A network card.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "NetTable")]
pub struct Net {
    /// What it is connected to.
    pub backend: NetBackend,
}

/// What a network card is connected to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NetBackend {
    /// A tap interface of the host, by its name.
    Tap(String),
    /// The host's network by way of its sockets, which asks for no privilege.
    User {
        /// Ports of the host that lead into the guest.
        forward: Vec<Forward>,
    },
}

/// A TCP port of the host that leads to one of the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forward {
    /// The host's port.
    pub host: u16,
    /// The guest's port.
    pub guest: u16,
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.guest)
    }
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
        text.split_once(':')
            .and_then(|(host, guest)| {
                Some(Self {
                    host: port(host)?,
                    guest: port(guest)?,
                })
            })
            .ok_or_else(|| {
                format!("`{text}` is not HOSTPORT:GUESTPORT, two numbers from 1 to 65535")
            })
    }
}

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split(',');
        let backend = words.next().unwrap_or_default();
        let mut forward = Vec::new();
        for word in words {
            match word.split_once('=') {
                Some(("forward", ports)) => forward.push(ports.parse()?),
                _ => return Err(format!("`{word}` is not forward=HOSTPORT:GUESTPORT")),
            }
        }
        match backend.split_once('=') {
            Some(("tap", _)) if !forward.is_empty() => {
                Err("forward is for --net user: a tap is a network of its own".into())
            }
            Some(("tap", name)) => Self::tap(name),
            None if backend == "user" => Ok(Self {
                backend: NetBackend::User { forward },
            }),
            _ => Err(format!(
                "`{backend}` is no network: it is tap=NAME or user[,forward=HOSTPORT:GUESTPORT]"
            )),
        }
    }
}

impl Net {
    fn tap(name: &str) -> Result<Self, String> {
        let fits = (1..=INTERFACE_NAME).contains(&name.len())
            && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c == '\0')
            && !matches!(name, "." | "..");
        if !fits {
            return Err(format!(
                "`{name}` cannot be the name of an interface: that is 1 to {INTERFACE_NAME} bytes \
                 without space, slash and colon"
            ));
        }
        Ok(Self {
            backend: NetBackend::Tap(name.into()),
        })
    }
}

/// A network card in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct NetTable {
    tap: Option<String>,
    #[serde(default)]
    user: bool,
    #[serde(default)]
    forward: Vec<String>,
}

impl TryFrom<NetTable> for Net {
    type Error = String;

    fn try_from(table: NetTable) -> Result<Self, String> {
        match table {
            NetTable {
                tap: Some(name),
                user: false,
                forward,
            } if forward.is_empty() => Self::tap(&name),
            NetTable {
                tap: Some(_),
                user: false,
                ..
            } => Err("forward is for user = true: a tap is a network of its own".into()),
            NetTable {
                tap: None,
                user: true,
                forward,
            } => Ok(Self {
                backend: NetBackend::User {
                    forward: forward
                        .iter()
                        .map(|ports| ports.parse())
                        .collect::<Result<_, _>>()?,
                },
            }),
            _ => Err("a network has either tap = \"NAME\" or user = true".into()),
        }
    }
}

/// The socket device.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "VsockTable")]
pub struct Vsock {
    /// The guest's context ID.
    pub cid: u32,
    /// Socket of the host where connections to and from the guest begin.
    pub socket: PathBuf,
}

impl Vsock {
    fn new(cid: u32, socket: Option<PathBuf>) -> Result<Self, String> {
        if !(FIRST_CID..=LAST_CID).contains(&cid) {
            return Err(format!(
                "{cid} cannot be a guest's CID: they go from {FIRST_CID} to {LAST_CID}"
            ));
        }
        let socket = socket.unwrap_or_else(|| {
            let directory = std::env::var_os("XDG_RUNTIME_DIR").unwrap_or_else(|| "/tmp".into());
            PathBuf::from(directory).join(format!("minivmm-vsock-{cid}"))
        });
        Ok(Self { cid, socket })
    }
}

impl FromStr for Vsock {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (cid, socket) = match text.split_once(',') {
            None => (text, None),
            Some((cid, rest)) => match rest.strip_prefix("socket=") {
                Some(path) if !path.is_empty() => (cid, Some(path.into())),
                _ => return Err(format!("`{rest}` is not socket=PATH")),
            },
        };
        let cid = cid
            .parse()
            .map_err(|error| format!("`{cid}` is not a CID ({error})"))?;
        Self::new(cid, socket)
    }
}

/// The socket device in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct VsockTable {
    cid: u32,
    socket: Option<PathBuf>,
}

impl TryFrom<VsockTable> for Vsock {
    type Error = String;

    fn try_from(table: VsockTable) -> Result<Self, String> {
        Self::new(table.cid, table.socket)
    }
}

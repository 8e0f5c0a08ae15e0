//! Apps as they are configured: the rules and bounds of their channels.

use crate::ably::{Ack, AppLimits, AppSpec, Namespace};
use crate::config::reader::{ConfigError, Section};
use crate::config::{key, units};

/// One table `[[apps]]`, without its keys.
#[derive(Clone, Debug)]
pub struct AppConfig {
    /// The first part of its keys' names.
    pub id: String,
    /// Rules for channels by the first segment of their name.
    pub namespaces: Vec<Namespace>,
    /// Bounds on what its clients can make the daemon hold.
    pub limits: AppLimits,
}

impl AppConfig {
    pub(super) fn read(mut section: Section) -> Result<AppConfig, ConfigError> {
        let mut id = String::new();
        section.read("id", &mut id, |value| match units::text(value)? {
            text if key::is_id(text) => Ok(text.to_owned()),
            _ => Err("wants letters, digits, `-` and `_`".into()),
        })?;
        let mut limits = AppLimits::default();
        let members = units::count(1..=100_000);
        section.read("presence_members_max", &mut limits.presence_members_max, members)?;
        let mut namespaces: Vec<Namespace> = Vec::new();
        for section in section.sections("namespaces")? {
            let at = section.place();
            let namespace = read_namespace(section)?;
            if namespaces.iter().any(|other| other.id == namespace.id) {
                return Err(at.error(format!("the namespace `{}` is there twice", namespace.id)));
            }
            namespaces.push(namespace);
        }
        section.finish()?;
        if id.is_empty() {
            return Err(section.error("id", "is missing"));
        }
        Ok(AppConfig { id, namespaces, limits })
    }

    /// The app, as shards know it, without keys.
    pub(super) fn to_spec(&self) -> AppSpec {
        AppSpec {
            id: self.id.as_str().into(),
            keys: Vec::new(),
            namespaces: self.namespaces.clone(),
            limits: self.limits.clone(),
        }
    }
}

fn read_namespace(mut section: Section) -> Result<Namespace, ConfigError> {
    let mut namespace = Namespace::default();
    section.read("id", &mut namespace.id, |value| match units::text(value)? {
        text if text.is_empty() || text.contains(':') => Err("wants a name without `:`".into()),
        text => Ok(text.into()),
    })?;
    section.read("mutable_messages", &mut namespace.mutable_messages, units::boolean)?;
    section.read("identified", &mut namespace.authenticated, units::boolean)?;
    section.read("persist", &mut namespace.persisted, units::boolean)?;
    let mut ack = None;
    section.read("ack", &mut ack, |value| match units::text(value)? {
        "memory" => Ok(Some(Ack::Memory)),
        "written" => Ok(Some(Ack::Written)),
        "fsynced" => Ok(Some(Ack::Fsynced)),
        _ => Err("wants `memory`, `written` or `fsynced`".into()),
    })?;
    match ack {
        Some(ack) if namespace.persisted => namespace.ack = ack,
        Some(_) => return Err(section.error("ack", "goes with `persist = true`")),
        None => {}
    }
    section.finish()?;
    if namespace.id.is_empty() {
        return Err(section.error("id", "is missing"));
    }
    Ok(namespace)
}

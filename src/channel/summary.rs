//! What the annotations of one message add up to (9).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::ably::{Aggregation, Annotation, AnnotationAction, ErrorCode, ErrorInfo};

/// Clients and names that one message's summary may count; an annotation that would add one more is
/// refused.
const CONTRIBUTIONS_MAX: usize = 10_000;

/// Names, and types without names, of one summary; each is in it with all its letters.
const ENTRIES_MAX: usize = 100;

/// Bytes of clientIds in one summary; lists are clipped so that no more are told.
const CLIENT_IDS_BYTES_MAX: usize = 32 << 10;

/// Bytes of memory that one contribution takes beside its clientId, about.
const CONTRIBUTION_BYTES: u64 = 160;

/// Who has contributed under one name, in the order of their first contributions.
#[derive(Debug, Default)]
struct Contributors {
    /// By clientId: the place in the order, and how much.
    clients: HashMap<Arc<str>, (u64, u64)>,
    by_place: BTreeMap<u64, Arc<str>>,
    next_place: u64,
    /// Sum over clients and nobodies.
    total: u64,
    /// What clients without clientId have contributed.
    unidentified: u64,
}

impl Contributors {
    fn add(&mut self, client_id: Option<&str>, count: u64) {
        self.total = self.total.saturating_add(count);
        let Some(client_id) = client_id else {
            self.unidentified = self.unidentified.saturating_add(count);
            return;
        };
        if let Some((_, own)) = self.clients.get_mut(client_id) {
            *own = own.saturating_add(count);
            return;
        }
        let client_id: Arc<str> = client_id.into();
        self.by_place.insert(self.next_place, Arc::clone(&client_id));
        self.clients.insert(client_id, (self.next_place, count));
        self.next_place += 1;
    }

    /// Whether there was something to remove.
    fn remove(&mut self, client_id: &str) -> bool {
        let Some((place, count)) = self.clients.remove(client_id) else { return false };
        self.by_place.remove(&place);
        self.total = self.total.saturating_sub(count);
        true
    }

    fn is_empty(&self) -> bool {
        self.clients.is_empty() && self.total == 0
    }
}

/// The annotations of one type.
#[derive(Debug)]
struct Kind {
    kind: Box<str>,
    aggregation: Aggregation,
    /// By name, in the order of appearance; types that are not told apart by names have one, `""`.
    names: Vec<(Box<str>, Contributors)>,
}

/// See the module text.
#[derive(Debug, Default)]
pub struct Summary {
    kinds: Vec<Kind>,
    /// Sum of the lengths of `clients` over all names.
    contributions: usize,
    client_id_bytes: u64,
}

impl Summary {
    /// Bytes that it takes in memory, about.
    pub fn size_bytes(&self) -> u64 {
        let names = self.kinds.iter().map(|kind| {
            let names = kind.names.iter().map(|(name, _)| name.len() as u64 + CONTRIBUTION_BYTES);
            kind.kind.len() as u64 + CONTRIBUTION_BYTES + names.sum::<u64>()
        });
        names.sum::<u64>() + self.client_id_bytes + self.contributions as u64 * CONTRIBUTION_BYTES
    }

    /// Whether `annotation` may be added.
    ///
    /// # Errors
    /// 40000: the summary would become too large.
    pub fn check(&self, annotation: &Annotation) -> Result<(), ErrorInfo> {
        let is_counted = Aggregation::of(&annotation.kind).is_some();
        if !is_counted || annotation.action == AnnotationAction::Delete {
            return Ok(());
        }
        let entries: usize = self.kinds.iter().map(|kind| kind.names.len()).sum();
        let known = self.contributors(annotation);
        let is_new_client = annotation.client_id.as_deref().is_some_and(|client_id| {
            known.is_none_or(|known| !known.clients.contains_key(client_id))
        });
        let has_room = (known.is_some() || entries < ENTRIES_MAX)
            && (!is_new_client || self.contributions < CONTRIBUTIONS_MAX);
        if !has_room {
            let text = "the message has as many annotations as can be summarised";
            return Err(ErrorInfo::new(ErrorCode::BAD_REQUEST, text));
        }
        Ok(())
    }

    fn contributors(&self, annotation: &Annotation) -> Option<&Contributors> {
        let kind = self.kinds.iter().find(|known| known.kind == annotation.kind)?;
        let name = match kind.aggregation.is_by_name() {
            true => annotation.name.as_deref().unwrap_or_default(),
            false => "",
        };
        kind.names.iter().find(|(known, _)| **known == *name).map(|(_, known)| known)
    }

    /// Takes `annotation` into account; returns whether that has changed anything.
    pub fn apply(&mut self, annotation: &Annotation) -> bool {
        let Some(aggregation) = Aggregation::of(&annotation.kind) else { return false };
        let client_id = annotation.client_id.as_deref();
        let changed = match annotation.action {
            AnnotationAction::Create => self.create(aggregation, annotation, client_id),
            AnnotationAction::Delete => self.delete(aggregation, annotation, client_id),
        };
        for kind in &mut self.kinds {
            kind.names.retain(|(_, contributors)| !contributors.is_empty());
        }
        self.kinds.retain(|kind| !kind.names.is_empty());
        changed
    }

    fn create(
        &mut self,
        aggregation: Aggregation,
        annotation: &Annotation,
        client_id: Option<&str>,
    ) -> bool {
        let at = self.kinds.iter().position(|known| known.kind == annotation.kind);
        let at = at.unwrap_or_else(|| {
            let kind = annotation.kind.clone();
            self.kinds.push(Kind { kind, aggregation, names: Vec::new() });
            self.kinds.len() - 1
        });
        let kind = &mut self.kinds[at];
        let name = match aggregation.is_by_name() {
            true => annotation.name.as_deref().unwrap_or_default(),
            false => "",
        };
        let (mut removed, mut removed_bytes) = (0, 0);
        if let (Aggregation::Unique, Some(client_id)) = (aggregation, client_id) {
            let others = kind.names.iter_mut().filter(|(other, _)| **other != *name);
            for (_, contributors) in others {
                if contributors.remove(client_id) {
                    (removed, removed_bytes) = (removed + 1, removed_bytes + client_id.len());
                }
            }
        }
        let at = kind.names.iter().position(|(known, _)| **known == *name).unwrap_or_else(|| {
            kind.names.push((name.into(), Contributors::default()));
            kind.names.len() - 1
        });
        let contributors = &mut kind.names[at].1;
        let before = contributors.clients.len();
        let is_known = client_id.is_some_and(|client| contributors.clients.contains_key(client));
        let changed = match aggregation {
            Aggregation::Total => {
                contributors.add(None, 1);
                true
            }
            Aggregation::Multiple => {
                contributors.add(client_id, annotation.count.unwrap_or(1));
                true
            }
            Aggregation::Flag | Aggregation::Distinct | Aggregation::Unique => {
                if !is_known && client_id.is_some() {
                    contributors.add(client_id, 1);
                }
                !is_known
            }
        };
        let added = contributors.clients.len() - before;
        self.contributions = self.contributions + added - removed;
        let added_bytes = added * client_id.map_or(0, str::len);
        self.client_id_bytes = self.client_id_bytes + added_bytes as u64 - removed_bytes as u64;
        changed
    }

    fn delete(
        &mut self,
        aggregation: Aggregation,
        annotation: &Annotation,
        client_id: Option<&str>,
    ) -> bool {
        let known = self.kinds.iter_mut().find(|known| known.kind == annotation.kind);
        let Some(kind) = known else { return false };
        if aggregation == Aggregation::Total {
            let total = &mut kind.names[0].1;
            (total.total, total.unidentified) = (total.total - 1, total.unidentified - 1);
            return true;
        }
        // What nobody in particular has contributed cannot be taken back: it could be anybody's.
        let Some(client_id) = client_id else { return false };
        let wanted = annotation.name.as_deref().filter(|_| aggregation.is_by_name());
        let names = kind.names.iter_mut().filter(|(name, _)| wanted.is_none_or(|it| **name == *it));
        let mut removed = 0;
        for (_, contributors) in names {
            removed += usize::from(contributors.remove(client_id));
        }
        self.contributions -= removed;
        self.client_id_bytes -= (removed * client_id.len()) as u64;
        removed > 0
    }

    /// The JSON text of the whole summary (TM8a).
    pub fn to_json(&self) -> Arc<str> {
        self.render(None)
    }

    /// The JSON text of what `client_id` has contributed to, told as in the whole summary but with no
    /// other clients.
    pub fn of_client(&self, client_id: &str) -> Arc<str> {
        self.render(Some(client_id))
    }

    fn render(&self, only: Option<&str>) -> Arc<str> {
        let entries: usize = self.kinds.iter().map(|kind| kind.names.len()).sum();
        let share_bytes = CLIENT_IDS_BYTES_MAX / entries.max(1);
        let wanted = |contributors: &Contributors| {
            only.is_none_or(|only| contributors.clients.contains_key(only))
        };
        let mut out = String::from("{");
        let mut is_first = true;
        for kind in &self.kinds {
            let mut names = kind.names.iter().filter(|(_, known)| wanted(known)).peekable();
            if names.peek().is_none() {
                continue;
            }
            separate(&mut out, &mut is_first);
            write_json_str(&mut out, &kind.kind);
            out.push(':');
            if !kind.aggregation.is_by_name() {
                let (_, contributors) = names.next().expect("peeked");
                write_entry(&mut out, kind.aggregation, contributors, only, share_bytes);
                continue;
            }
            out.push('{');
            let mut is_first = true;
            for (name, contributors) in names {
                separate(&mut out, &mut is_first);
                write_json_str(&mut out, name);
                out.push(':');
                write_entry(&mut out, kind.aggregation, contributors, only, share_bytes);
            }
            out.push('}');
        }
        out.push('}');
        out.into()
    }
}

fn write_json_str(out: &mut String, text: &str) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

fn separate(out: &mut String, is_first: &mut bool) {
    if !std::mem::replace(is_first, false) {
        out.push(',');
    }
}

fn write_entry(
    out: &mut String,
    aggregation: Aggregation,
    contributors: &Contributors,
    only: Option<&str>,
    share_bytes: usize,
) {
    out.push_str(&format!("{{\"total\":{}", contributors.total));
    if aggregation == Aggregation::Total {
        out.push('}');
        return;
    }
    let has_counts = aggregation == Aggregation::Multiple;
    let (open, close) = if has_counts { ('{', '}') } else { ('[', ']') };
    out.push_str(",\"clientIds\":");
    out.push(open);
    let (mut is_first, mut is_clipped, start) = (true, false, out.len());
    for client_id in contributors.by_place.values() {
        if only.is_some_and(|only| *only != **client_id) {
            continue;
        }
        // A single client that was asked for is told however long its id is.
        if only.is_none() && out.len() - start + client_id.len() > share_bytes {
            is_clipped = true;
            break;
        }
        separate(out, &mut is_first);
        write_json_str(out, client_id);
        if has_counts {
            out.push_str(&format!(":{}", contributors.clients[client_id].1));
        }
    }
    out.push(close);
    if has_counts {
        let (unidentified, clients) = (contributors.unidentified, contributors.clients.len());
        out.push_str(&format!(
            ",\"totalUnidentified\":{unidentified},\"totalClientIds\":{clients}"
        ));
    }
    out.push_str(&format!(",\"clipped\":{is_clipped}}}"));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::ably::{Data, Position, SerialClock, SeriesId};

    fn annotation(kind: &str, name: &str, client_id: &str) -> Annotation {
        let text = |text: &str| (!text.is_empty()).then(|| Box::from(text));
        let serial = SerialClock::new(SeriesId::new([1; 10])).next(5);
        Annotation {
            id: None,
            action: AnnotationAction::Create,
            message: Position { serial, index: 0 },
            kind: kind.into(),
            name: text(name),
            count: None,
            client_id: text(client_id),
            data: Data::None,
            encoding: None,
            extras: None,
        }
    }

    fn deleted(kind: &str, name: &str, client_id: &str) -> Annotation {
        Annotation { action: AnnotationAction::Delete, ..annotation(kind, name, client_id) }
    }

    fn counted(kind: &str, name: &str, client_id: &str, count: u64) -> Annotation {
        Annotation { count: Some(count), ..annotation(kind, name, client_id) }
    }

    fn json_of(summary: &Summary) -> Value {
        serde_json::from_str(&summary.to_json()).expect("valid JSON")
    }

    fn summary_of(annotations: &[Annotation]) -> Value {
        let mut summary = Summary::default();
        for annotation in annotations {
            summary.check(annotation).expect("there is room");
            summary.apply(annotation);
        }
        json_of(&summary)
    }

    #[test]
    fn total_counts_every_annotation_and_takes_one_back_for_each_delete() {
        let kind = "metrics:total.v1";
        let mut annotations = vec![annotation(kind, "", "a"), annotation(kind, "x", "a")];
        annotations.push(annotation(kind, "", ""));
        assert_eq!(summary_of(&annotations), json!({ kind: { "total": 3 } }));
        annotations.push(deleted(kind, "", "b"));
        assert_eq!(summary_of(&annotations), json!({ kind: { "total": 2 } }));
        annotations.extend([deleted(kind, "", ""), deleted(kind, "", ""), deleted(kind, "", "")]);
        assert_eq!(summary_of(&annotations), json!({}));
    }

    #[test]
    fn flag_counts_each_client_once() {
        let kind = "receipts:flag.v1";
        let mut annotations = vec![
            annotation(kind, "", "a"),
            annotation(kind, "read", "b"),
            annotation(kind, "", "a"),
        ];
        let clients = json!({ "total": 2, "clientIds": ["a", "b"], "clipped": false });
        assert_eq!(summary_of(&annotations), json!({ kind: clients }));
        annotations.extend([deleted(kind, "", "a"), deleted(kind, "", "nobody")]);
        let clients = json!({ "total": 1, "clientIds": ["b"], "clipped": false });
        assert_eq!(summary_of(&annotations), json!({ kind: clients }));
    }

    #[test]
    fn distinct_counts_each_client_once_for_each_name() {
        let kind = "reaction:distinct.v1";
        let annotations = [
            annotation(kind, "👍", "a"),
            annotation(kind, "👍", "b"),
            annotation(kind, "👍", "a"),
            annotation(kind, "\"", "a"),
            deleted(kind, "👍", "b"),
            annotation(kind, "gone", "a"),
            deleted(kind, "gone", "a"),
        ];
        let one = json!({ "total": 1, "clientIds": ["a"], "clipped": false });
        assert_eq!(summary_of(&annotations), json!({ kind: { "👍": one, "\"": one } }));
        let mut all = annotations.to_vec();
        all.push(deleted(kind, "", "a"));
        assert_eq!(summary_of(&all), json!({}), "without a name everything is taken back");
    }

    #[test]
    fn unique_has_each_client_under_its_last_name_only() {
        let kind = "vote:unique.v1";
        let annotations = [
            annotation(kind, "yes", "a"),
            annotation(kind, "yes", "b"),
            annotation(kind, "no", "a"),
            annotation(kind, "no", "a"),
        ];
        let one = |client: &str| json!({ "total": 1, "clientIds": [client], "clipped": false });
        assert_eq!(summary_of(&annotations), json!({ kind: { "yes": one("b"), "no": one("a") } }));
    }

    #[test]
    fn multiple_adds_up_counts_for_each_client_and_name() {
        let kind = "rating:multiple.v1";
        let mut annotations = vec![
            counted(kind, "stars", "a", 4),
            annotation(kind, "stars", "a"),
            annotation(kind, "stars", ""),
            counted(kind, "stars", "b", 2),
        ];
        let stars = json!({ "total": 8, "clientIds": { "a": 5, "b": 2 }, "totalUnidentified": 1,
            "totalClientIds": 2, "clipped": false });
        assert_eq!(summary_of(&annotations), json!({ kind: { "stars": stars } }));
        annotations.extend([deleted(kind, "stars", "a"), deleted(kind, "stars", "")]);
        let stars = json!({ "total": 3, "clientIds": { "b": 2 }, "totalUnidentified": 1,
            "totalClientIds": 1, "clipped": false });
        assert_eq!(summary_of(&annotations), json!({ kind: { "stars": stars } }));
    }

    #[test]
    fn types_without_an_aggregation_are_not_summarised() {
        let kinds = ["com.ably.reactions", "reaction:distinct", "reaction:distinct.v2", ""];
        assert_eq!(summary_of(&kinds.map(|kind| annotation(kind, "n", "a"))), json!({}));
    }

    #[test]
    fn what_changes_nothing_is_said_to_change_nothing() {
        let mut summary = Summary::default();
        let kind = "reaction:unique.v1";
        assert!(summary.apply(&annotation(kind, "n", "a")));
        assert!(!summary.apply(&annotation(kind, "n", "a")));
        assert!(summary.apply(&annotation(kind, "m", "a")));
        assert!(!summary.apply(&deleted(kind, "n", "a")));
        assert!(summary.apply(&deleted(kind, "m", "a")));
        assert_eq!(summary.size_bytes(), 0);
    }

    #[test]
    fn long_lists_are_clipped_and_their_totals_are_not() {
        let mut summary = Summary::default();
        let kind = "reaction:distinct.v1";
        for client in 0..CONTRIBUTIONS_MAX {
            let annotation = annotation(kind, "n", &format!("client-{client}"));
            summary.check(&annotation).expect("there is room");
            summary.apply(&annotation);
        }
        let one_more = annotation(kind, "n", "one-more");
        assert_eq!(summary.check(&one_more).map_err(|error| error.code.0), Err(40000));
        assert!(summary.check(&annotation(kind, "n", "client-0")).is_ok());
        assert!(summary.check(&deleted(kind, "n", "client-0")).is_ok());
        assert!(summary.to_json().len() < 2 * CLIENT_IDS_BYTES_MAX);
        let entry = &json_of(&summary)[kind]["n"];
        assert_eq!((&entry["total"], &entry["clipped"]), (&json!(10_000), &json!(true)));
        let own: Value = serde_json::from_str(&summary.of_client("client-9999")).expect("valid");
        assert_eq!(own[kind]["n"]["clientIds"], json!(["client-9999"]));
        assert_eq!(&*summary.of_client("nobody"), "{}");
    }

    #[test]
    fn the_number_of_names_is_bounded() {
        let mut summary = Summary::default();
        let named = |name: usize| annotation("reaction:distinct.v1", &name.to_string(), "a");
        (0..ENTRIES_MAX).for_each(|name| assert!(summary.apply(&named(name))));
        assert!(summary.check(&named(0)).is_ok());
        assert!(summary.check(&named(ENTRIES_MAX)).is_err());
        assert!(summary.check(&annotation("metrics:total.v1", "", "a")).is_err());
    }
}

//! What there is, a line of JSON for each.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use http::StatusCode;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

use super::answer::{self, Answered, Refusal};
use super::grants::Client;
use crate::protocol::{Code, Entry, is_name};

/// What is in `folder`: all objects below it, or only what stands in it itself, with its folders.
pub(crate) async fn answer(
    objects: &Arc<dyn ObjectStore>,
    client: &Arc<Client>,
    folder: &str,
    flat: bool,
) -> Answered {
    if !folder.is_empty() && !is_name(folder) {
        return Err(Refusal::new(Code::Malformed, "no folder has such a name"));
    }
    let mut parts = folder.splitn(3, '/');
    let is_seen = match (parts.next(), parts.next()) {
        (Some("machines"), Some(machine)) => client.may_touch(machine),
        // Of the machines, one sees those that one may touch.
        (Some("machines"), None) => !flat || client.may_touch_all(),
        _ => client.may_touch_all(),
    };
    if !is_seen {
        let reason = "the certificate does not give this right";
        return Err(Refusal::new(Code::Forbidden, reason));
    }
    let folder = (!folder.is_empty()).then(|| Path::from(folder));
    let entries = if flat {
        let found = objects.list(folder.as_ref());
        found.map(|found| Ok(object(found?))).boxed()
    } else {
        in_folder(objects, client, folder.as_ref()).await?
    };
    let end = stream::iter([Ok(Entry::End {})]);
    let lines = entries.chain(end).map(|entry| {
        let entry = entry.map_err(|error| {
            tracing::warn!(%error, "a list breaks off");
            io::Error::other("the server's store failed")
        })?;
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        Ok(Frame::data(Bytes::from(line)))
    });
    let mut answer = answer::empty(StatusCode::OK);
    *answer.body_mut() = StreamBody::new(lines).boxed_unsync();
    Ok(answer)
}

type Entries = BoxStream<'static, object_store::Result<Entry>>;

async fn in_folder(
    objects: &Arc<dyn ObjectStore>,
    client: &Arc<Client>,
    folder: Option<&Path>,
) -> Answered<Entries> {
    let found = objects.list_with_delimiter(folder).await?;
    let is_seen = {
        let client = Arc::clone(client);
        move |path: &Path| match path.as_ref().strip_prefix("machines/") {
            Some(rest) => client.may_touch(rest.split('/').next().unwrap_or(rest)),
            None => true,
        }
    };
    let folders = found.common_prefixes.into_iter().filter(is_seen);
    let folders = folders.map(|path| Entry::Folder { name: path.into() });
    let entries = folders.chain(found.objects.into_iter().map(object));
    Ok(stream::iter(entries.map(Ok)).boxed())
}

fn object(meta: ObjectMeta) -> Entry {
    Entry::Object {
        name: meta.location.into(),
        size: meta.size,
        modified: meta.last_modified.timestamp_nanos_opt().unwrap_or_default(),
        e_tag: meta.e_tag,
        version: meta.version,
    }
}

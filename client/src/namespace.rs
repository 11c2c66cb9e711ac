//! Names: lookups, listings, changes.

use protocol::ids::{Ino, SessionId};
use protocol::limits::PATH_LEN_MAX;
use protocol::message::namespace::{
    DirEntry, Entry, LookupReply, LookupRequest, LookupResult, NamespaceOp, OpOutcome, PathQuery,
    ReadDirReply, ReadDirRequest,
};
use protocol::status::Status;

use crate::client::Client;
use crate::error::Error;
use crate::limits::{LOOKUP_BATCH_BYTES_MAX, LOOKUP_BATCH_MAX, READ_DIR_PAGE_MAX};

impl Client {
    /// Looks up one absolute path, content included.
    ///
    /// # Shape
    /// `path` are components separated by `/`; a leading `/` means nothing. `follow` follows a
    /// symbolic link in the last component.
    ///
    /// # Errors
    /// [`Error::Refused`] with the status of the path, or that no coordinator answered.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn lookup(&self, path: &[u8], follow: bool) -> Result<Entry, Error> {
        let query = PathQuery { base: Ino::ROOT, path: path.to_vec(), follow, with_content: true };
        match self.lookup_many(vec![query]).await?.pop() {
            Some(LookupResult::Found(entry)) => Ok(entry),
            Some(LookupResult::Refused(status)) => Err(Error::refused(shown(path), status, "")),
            None => Err(self.wrong_count("lookup", 0, 1)),
        }
    }

    /// Looks up many paths; results are in the order of the queries.
    ///
    /// # Errors
    /// That no coordinator answered; a path that does not exist is a result.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    ///
    /// # Cost
    /// One request for [`LOOKUP_BATCH_MAX`] paths, each batch in one snapshot; more when the paths are
    /// longer than [`LOOKUP_BATCH_BYTES_MAX`] together or the coordinator answers in parts.
    pub async fn lookup_many(&self, queries: Vec<PathQuery>) -> Result<Vec<LookupResult>, Error> {
        let mut results = Vec::with_capacity(queries.len());
        let mut refused = Vec::new();
        let sent = queries.into_iter().map(relative).enumerate().filter_map(|(at, query)| {
            // Such a path would have the whole batch refused.
            let Some(status) = impossible(&query.path) else { return Some(query) };
            refused.push((at, LookupResult::Refused(status)));
            None
        });
        let mut sent = sent.collect::<Vec<_>>().into_iter().peekable();
        while sent.peek().is_some() {
            self.lookup_batch(take_batch(&mut sent), &mut results).await?;
        }
        refused.into_iter().for_each(|(at, result)| results.insert(at, result));
        Ok(results)
    }

    /// Looks up one batch; what a reply has no room for is asked for again.
    async fn lookup_batch(
        &self,
        queries: Vec<PathQuery>,
        results: &mut Vec<LookupResult>,
    ) -> Result<(), Error> {
        let mut request = LookupRequest { session: self.session_or_none().await, queries };
        while !request.queries.is_empty() {
            let reply: LookupReply = self.core().ask("lookup", &request).await?;
            let (got, asked) = (reply.results.len(), request.queries.len());
            if got == 0 || got > asked {
                return Err(self.wrong_count("lookup", got, asked));
            }
            self.note_words(&reply.results);
            results.extend(reply.results);
            request.queries.drain(..got);
        }
        Ok(())
    }

    /// Looks up one path; a path that does not exist is a result.
    pub(crate) async fn lookup_once(&self, query: PathQuery) -> Result<LookupResult, Error> {
        let found = self.lookup_many(vec![query]).await?.pop();
        found.ok_or_else(|| self.wrong_count("lookup", 0, 1))
    }

    /// Looks up one path, asking each coordinator once at most.
    pub(crate) async fn lookup_in_one_round(
        &self,
        query: PathQuery,
    ) -> Result<LookupResult, Error> {
        let session = self.session_or_none().await;
        let request = LookupRequest { session, queries: vec![relative(query)] };
        let mut reply: LookupReply = self.core().ask_in_one_round("lookup", &request).await?;
        let count = reply.results.len();
        self.note_words(&reply.results);
        reply.results.pop().ok_or_else(|| self.wrong_count("lookup", count, 1))
    }

    /// Reads a whole directory, ascending by name.
    ///
    /// Entries that come and go meanwhile may or may not be seen; others are seen once.
    ///
    /// # Errors
    /// [`Error::Refused`] with the status of the directory.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn read_dir(&self, dir: Ino, with_content: bool) -> Result<Vec<DirEntry>, Error> {
        let mut entries: Vec<DirEntry> = Vec::new();
        loop {
            let after = entries.last().map(|entry| entry.name.clone()).unwrap_or_default();
            let page = self.read_dir_page(dir, &after, with_content).await?;
            let more = page.more && !page.entries.is_empty();
            entries.extend(page.entries);
            if !more {
                return Ok(entries);
            }
        }
    }

    /// Reads the page of a directory that follows the name `after`; from the start when empty.
    ///
    /// # Errors
    /// [`Error::Refused`] with the status of the directory.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn read_dir_page(
        &self,
        dir: Ino,
        after: &[u8],
        with_content: bool,
    ) -> Result<ReadDirReply, Error> {
        let request = ReadDirRequest {
            session: self.session_or_none().await,
            dir,
            after: after.to_vec(),
            limit: READ_DIR_PAGE_MAX,
            with_content,
        };
        if with_content {
            self.core().note_word();
        }
        self.core().ask(&format!("directory {dir}"), &request).await
    }

    fn note_words(&self, results: &[LookupResult]) {
        let grown = |result: &LookupResult| match result {
            LookupResult::Found(entry) => entry.content.as_ref().is_some_and(|it| it.growth_only),
            LookupResult::Refused(_) => false,
        };
        if results.iter().any(grown) {
            self.core().note_word();
        }
    }

    /// Changes the namespace; callers that run at once share a batch.
    ///
    /// The operations of one caller that waits for each take effect in that order. A retry after a
    /// lost answer takes effect once.
    ///
    /// # Errors
    /// [`Error::Refused`]: nothing changed. [`Error::Deadline`]: the outcome is unknown.
    ///
    /// # Durability
    /// On return the change survives a crash of every process.
    ///
    /// # Cancel safety
    /// The change may take effect.
    pub async fn mutate(&self, op: NamespaceOp) -> Result<Option<Entry>, Error> {
        let what = describe(&op);
        match self.mutations().run(&what, op).await? {
            OpOutcome::Done(entry) => Ok(entry),
            OpOutcome::Reserved(_) | OpOutcome::Refused(_) => {
                Err(Error::Protocol { what, detail: "the outcome is of another operation".into() })
            }
        }
    }

    /// The session when one is open: a listing does not need one.
    async fn session_or_none(&self) -> SessionId {
        self.session().current().await.unwrap_or(SessionId(0))
    }

    fn wrong_count(&self, what: &str, got: usize, expected: usize) -> Error {
        let detail = format!("{got} results for {expected} queries");
        Error::Protocol { what: what.into(), detail }
    }
}

/// A path or name for people.
pub(crate) fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    text.replace(|letter: char| letter.is_control(), "?")
}

fn relative(mut query: PathQuery) -> PathQuery {
    let slashes = query.path.iter().take_while(|byte| **byte == b'/').count();
    query.path.drain(..slashes);
    query
}

/// The status of a path that no coordinator would take.
fn impossible(path: &[u8]) -> Option<Status> {
    if path.len() > PATH_LEN_MAX {
        return Some(Status::NameTooLong);
    }
    path.contains(&0).then_some(Status::Invalid)
}

fn take_batch(
    queries: &mut std::iter::Peekable<impl Iterator<Item = PathQuery>>,
) -> Vec<PathQuery> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while batch.len() < LOOKUP_BATCH_MAX
        && let Some(query) = queries
            .next_if(|query| batch.is_empty() || bytes + query.path.len() <= LOOKUP_BATCH_BYTES_MAX)
    {
        bytes += query.path.len();
        batch.push(query);
    }
    batch
}

/// What an operation does, for errors; callers that know the path put it in place of this.
fn describe(op: &NamespaceOp) -> String {
    match op {
        NamespaceOp::Mkdir { parent, name, .. } => format!("mkdir {} in {parent}", shown(name)),
        NamespaceOp::Reserve { count, .. } => format!("reserve {count} files"),
        NamespaceOp::Publish { parent, name, .. } => format!("publish {} in {parent}", shown(name)),
        NamespaceOp::Abandon { inos } => format!("abandon {} files", inos.len()),
        NamespaceOp::Symlink { parent, name, .. } => format!("symlink {} in {parent}", shown(name)),
        NamespaceOp::Link { parent, name, .. } => format!("link {} in {parent}", shown(name)),
        NamespaceOp::Rename { from_name, to_name, .. } => {
            format!("rename {} to {}", shown(from_name), shown(to_name))
        }
        NamespaceOp::Unlink { parent, name } => format!("unlink {} in {parent}", shown(name)),
        NamespaceOp::Rmdir { parent, name } => format!("rmdir {} in {parent}", shown(name)),
        NamespaceOp::SetAttr { ino, .. } => format!("set attributes of inode {ino}"),
        NamespaceOp::SetSize { ino, .. } => format!("set size of inode {ino}"),
        NamespaceOp::OpenWrite { ino, .. } => format!("open inode {ino} for writing"),
        NamespaceOp::CloseWrite { ino, .. } => format!("close inode {ino}"),
        NamespaceOp::Truncate { ino, len } => format!("truncate inode {ino} to {len} bytes"),
        NamespaceOp::ExtendLayout { ino, .. } => format!("extend the layout of inode {ino}"),
        NamespaceOp::ReserveAppend { ino, .. } => format!("append to inode {ino}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(path: &[u8]) -> PathQuery {
        PathQuery { base: Ino::ROOT, path: path.to_vec(), follow: true, with_content: true }
    }

    #[test]
    fn a_leading_slash_means_nothing() {
        assert_eq!(relative(query(b"//a/b")).path, b"a/b");
        assert_eq!(relative(query(b"/")).path, b"");
    }

    #[test]
    fn batches_are_bounded_in_paths_and_in_bytes() {
        let short = (0..LOOKUP_BATCH_MAX + 1).map(|_| query(b"a"));
        let mut short = short.peekable();
        assert_eq!(take_batch(&mut short).len(), LOOKUP_BATCH_MAX);
        assert_eq!(take_batch(&mut short).len(), 1);
        let long = vec![b'a'; PATH_LEN_MAX];
        let mut long = (0..300).map(|_| query(&long)).peekable();
        assert_eq!(take_batch(&mut long).len(), LOOKUP_BATCH_BYTES_MAX / PATH_LEN_MAX);
    }

    #[test]
    fn names_are_shown_without_control_characters() {
        assert_eq!(shown(b"a\nb\x1b[1m"), "a?b?[1m");
    }
}

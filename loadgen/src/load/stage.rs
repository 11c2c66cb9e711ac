//! The operations of a load.

use client::{Client, Config, FileBytes, FileEditor, FileReader, ReadManyOptions, WriteMode};
use protocol::ids::Ino;
use protocol::message::namespace::{LookupResult, NamespaceOp, PathQuery, SetAttributes};
use tokio::sync::Mutex;

use super::choice::{Shuffle, Zipf};
use super::files::{FILL_PIECE, failed, folder, make, name};
use super::scenario::{Scenario, Work};
use super::subject::Numbers;
use crate::cluster::StepError;
use crate::dice::Dice;

/// What the operations of one client need.
pub(super) struct Stage {
    scenario: Scenario,
    client: Client,
    dir: Ino,
    path: String,
    readers: Vec<FileReader>,
    zipf: Zipf,
    /// Tells names of different clients apart.
    own: u64,
    /// Files that are changed in place, each by one operation at a time.
    editors: Vec<Mutex<FileEditor>>,
    /// Numbers of operations; those of an epoch go through all clients.
    numbers: Numbers,
}

/// Puts one random word on each page: a device cannot fold it, and drawing it costs no time.
fn sprinkle(bytes: &mut [u8], dice: &mut Dice) {
    for page in bytes.chunks_mut(4096) {
        let word = dice.draw().to_le_bytes();
        let count = page.len().min(word.len());
        page[..count].copy_from_slice(&word[..count]);
    }
}

/// Makes files of this client's own and opens them for changes; none for other work.
async fn editors(
    client: &Client,
    scenario: &Scenario,
    dir: Ino,
    own: u64,
) -> Result<Vec<Mutex<FileEditor>>, StepError> {
    let mut editors = Vec::new();
    if scenario.work != Work::Rewrite {
        return Ok(editors);
    }
    let each = scenario.files.div_ceil(scenario.clients);
    for number in 0..each {
        let name = format!("own-{own}-{number}");
        let told = failed(&name);
        let entry = make(client, dir, scenario, number, &name).await?;
        let ino = entry.attributes.ino;
        let editor = client.open_write(ino, WriteMode::Change).await.map_err(&told)?;
        editors.push(Mutex::new(editor));
    }
    Ok(editors)
}

impl Stage {
    /// Connects one client to files that [`prepare`] made.
    pub(super) async fn open(
        config: &Config,
        scenario: &Scenario,
        path: &str,
        own: u64,
        numbers: Numbers,
    ) -> Result<Stage, StepError> {
        let client = Client::connect(config).await.map_err(failed("connect"))?;
        let dir = folder(&client, path).await?;
        let keeps_open = matches!(scenario.work, Work::Read | Work::Mixed | Work::Epoch);
        let mut readers = Vec::new();
        let all: Vec<u32> = if keeps_open { (0..scenario.files).collect() } else { Vec::new() };
        for part in all.chunks(client::limits::LOOKUP_BATCH_MAX) {
            let query = |number: &u32| PathQuery {
                base: dir,
                path: name(*number).into_bytes(),
                follow: false,
                with_content: true,
            };
            let found = client.lookup_many(part.iter().map(query).collect()).await;
            for result in found.map_err(failed(path))? {
                let LookupResult::Found(entry) = result else {
                    return Err(StepError::Different(format!("a file of {path} is gone")));
                };
                readers.push(client.reader(&entry).map_err(failed(path))?);
            }
        }
        let editors = editors(&client, scenario, dir, own).await?;
        let (scenario, path) = (scenario.clone(), path.to_owned());
        let zipf = Zipf::new(scenario.files, scenario.zipf);
        Ok(Stage { scenario, client, dir, path, readers, zipf, own, editors, numbers })
    }

    /// One operation of the load; the payload bytes it moved.
    ///
    /// # Errors
    /// As the client told it.
    pub(super) async fn operate(&self) -> Result<u64, client::Error> {
        let number = self.numbers.draw();
        let mut dice = Dice::new(self.scenario.seed ^ (number << 20));
        match self.scenario.work {
            Work::Read => self.read(&mut dice).await,
            Work::Write => self.write(number).await,
            Work::Mixed if dice.below(100) < u64::from(self.scenario.write_percent) => {
                self.write(number).await
            }
            Work::Mixed => self.read(&mut dice).await,
            Work::Rewrite => self.rewrite(number, &mut dice).await,
            Work::Meta => self.names(number).await,
            Work::SmallFiles if self.scenario.batch > 1 => self.small_files(&mut dice).await,
            Work::SmallFiles => self.small_file(&mut dice).await,
            Work::Epoch => self.next_of_epoch(number).await,
        }
    }

    async fn read(&self, dice: &mut Dice) -> Result<u64, client::Error> {
        let places = self.scenario.file / self.scenario.block;
        let at = dice.below(places) * self.scenario.block;
        self.read_at(self.zipf.choose(dice), at).await
    }

    async fn next_of_epoch(&self, number: u64) -> Result<u64, client::Error> {
        let each = self.scenario.file.div_ceil(self.scenario.block);
        let all = each * u64::from(self.scenario.files);
        let pass = Shuffle::new(all, self.scenario.seed ^ (number / all));
        let piece = pass.of(number % all);
        let file = usize::try_from(piece / each).unwrap_or(usize::MAX);
        self.read_at(file, piece % each * self.scenario.block).await
    }

    async fn read_at(&self, file: usize, at: u64) -> Result<u64, client::Error> {
        let Some(reader) = self.readers.get(file) else { return Ok(0) };
        let len = usize::try_from(self.scenario.block).unwrap_or(usize::MAX);
        Ok(reader.read_at(at, len).await?.len() as u64)
    }

    async fn small_file(&self, dice: &mut Dice) -> Result<u64, client::Error> {
        let entry = self.client.lookup(&self.any_path(dice), false).await?;
        let len = usize::try_from(entry.attributes.size).unwrap_or(usize::MAX);
        Ok(self.client.reader(&entry)?.read_at(0, len).await?.len() as u64)
    }

    async fn small_files(&self, dice: &mut Dice) -> Result<u64, client::Error> {
        let paths: Vec<_> = (0..self.scenario.batch).map(|_| self.any_path(dice)).collect();
        let mut many = self.client.read_many(paths, ReadManyOptions::default());
        let mut bytes = 0;
        while let Some(file) = many.next().await {
            bytes += match file.result? {
                FileBytes::Whole(whole) => whole.len() as u64,
                FileBytes::Long(reader) => {
                    let len = usize::try_from(reader.size()).unwrap_or(usize::MAX);
                    reader.read_at(0, len).await?.len() as u64
                }
            };
        }
        Ok(bytes)
    }

    /// The path of some file.
    fn any_path(&self, dice: &mut Dice) -> Vec<u8> {
        let number = u32::try_from(self.zipf.choose(dice)).unwrap_or(0);
        format!("{}/{}", self.path, name(number)).into_bytes()
    }

    async fn write(&self, number: u64) -> Result<u64, client::Error> {
        let len = self.scenario.file;
        let mut writer = self.client.create(self.dir, len).await?;
        let mut dice = Dice::new(number);
        let mut left = len;
        while left > 0 {
            let piece = left.min(FILL_PIECE);
            let mut bytes = vec![0; usize::try_from(piece).unwrap_or(usize::MAX)];
            sprinkle(&mut bytes, &mut dice);
            writer.write(bytes).await?;
            left -= piece;
        }
        let name = format!("new-{}-{}", self.own, number % u64::from(self.scenario.files));
        let attributes = SetAttributes::default();
        writer.publish(self.dir, name.as_bytes(), attributes, true).await?;
        Ok(len)
    }

    /// Changes one block of a file in place, durably.
    async fn rewrite(&self, number: u64, dice: &mut Dice) -> Result<u64, client::Error> {
        let turn = usize::try_from(number).unwrap_or(usize::MAX) % self.editors.len().max(1);
        let Some(editor) = self.editors.get(turn) else { return Ok(0) };
        let at = dice.below(self.scenario.file / self.scenario.block) * self.scenario.block;
        let len = usize::try_from(self.scenario.block).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len];
        sprinkle(&mut bytes, dice);
        editor.lock().await.write_at(at, bytes).await?;
        Ok(self.scenario.block)
    }

    /// Makes a folder, looks it up and removes it.
    async fn names(&self, number: u64) -> Result<u64, client::Error> {
        let name = format!("name-{}-{number}", self.own).into_bytes();
        let (parent, attributes) = (self.dir, SetAttributes::default());
        let made = NamespaceOp::Mkdir { parent, name: name.clone(), attributes };
        self.client.mutate(made).await?;
        let path = format!("{}/{}", self.path, String::from_utf8_lossy(&name));
        self.client.lookup(path.as_bytes(), false).await?;
        self.client.mutate(NamespaceOp::Rmdir { parent, name }).await?;
        Ok(0)
    }

    /// Ends the session.
    pub(super) async fn close(self) -> Result<(), StepError> {
        for editor in self.editors {
            editor.into_inner().close().await.map_err(failed("close a file"))?;
        }
        self.client.close().await.map_err(failed("close"))
    }
}

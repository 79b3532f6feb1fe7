//! A graceful stop (section 4).

use crate::adopt;
use crate::error::Unavailable;
use crate::failpoint;
use crate::log_thread::head;
use crate::node::{Ended, Inner, Node};
use crate::primary::Primary;
use crate::term;
use netsy_localdb as localdb;

impl Node {
    /// Stops gracefully: nothing new is taken, everything is uploaded, the bucket is then the whole cluster. Gives up
    /// on the bucket after `drain_timeout`, keeping the disk. The error says what was left undone.
    pub async fn stop(&self) -> Result<(), String> {
        self.0.stop().await
    }
}

impl Inner {
    async fn stop(&self) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + self.config.drain_timeout;
        // Background work ends; requests are the server's to end before it calls this.
        self.begin_stop();
        let leading = self.leading();
        let drained = match &leading {
            Some(primary) => tokio::time::timeout_at(deadline, self.drain(primary)).await,
            None => Ok(Ok(())),
        };
        let result = drained.unwrap_or_else(|_| {
            Err(format!(
                "object storage did not take everything within {:?}; what it lacks is safe in {}",
                self.config.drain_timeout,
                self.config.data_dir.display()
            ))
        });
        if let Some(primary) = &leading {
            primary.end(Unavailable::Stopped);
        }
        self.end(Unavailable::Stopped, Ended::Stopped);
        if let Some(db) = self.thread.stop().await {
            self.note_end(db).await;
        }
        result
    }

    /// The next start goes on from what is known now.
    async fn note_end(&self, mut db: localdb::Writer) {
        let (point, shown) = (self.tail(), self.shown_index());
        let noted = tokio::task::spawn_blocking(move || {
            let uploaded = adopt::fits(&db, &point).then(|| adopt::uploaded(&point));
            let visible_index = Some(shown.min(db.end().index));
            db.commit(&localdb::Batch { uploaded, visible_index, ..localdb::Batch::default() })
                .map_err(|e| e.to_string())
        });
        match noted.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the local database could not note its state"),
            Err(error) => tracing::warn!(%error, "the local database could not note its state"),
        }
    }

    /// Everything to the object log, then the voters emptied: any node can go on from the bucket (section 4).
    async fn drain(&self, primary: &Primary) -> Result<(), String> {
        if !primary.uploads.flush().await {
            return Err("uploading ended before everything was in object storage".into());
        }
        failpoint::hit("stop.drained");
        // Nothing is acknowledged or confirmed from here on.
        primary.publisher.close(Unavailable::Stopped);
        primary.confirmer.depose();
        // What the log thread had taken before goes up, too, though nobody is told of it any more.
        while self.tail().last_index < head(self) {
            if !primary.uploads.flush().await {
                return Err("uploading ended before everything was in object storage".into());
            }
        }
        let Some(held) = primary.held.lock().await.take() else {
            return Ok(());
        };
        match term::leave_empty(&self.manifest, held).await {
            Ok(Some(_)) => failpoint::hit("stop.voters-emptied"),
            Ok(None) => return Err("another process took the term over".into()),
            Err(e) => return Err(e.to_string()),
        }
        term::deregister(&self.manifest, &self.config).await.map_err(|e| e.to_string())
    }
}

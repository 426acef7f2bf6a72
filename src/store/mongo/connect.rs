//! Connects to the database, and checks the connection string and the server at startup.

use super::errors::startup_error;
use super::write_concern::durable_write_concern;
use super::{Collections, MongoStore};
use super::{ledger_repair, schema};
use crate::error::{Error, ErrorKind, Result};
use mongodb::bson::{Document, doc};
use mongodb::error::ErrorKind as DriverErrorKind;
use mongodb::options::{ClientOptions, ReadConcern, ReadPreference, SelectionCriteria};
use mongodb::{Client, Database};
use std::time::Duration;
use tokio::time::timeout;
use uuid::Uuid;

/// Database name if the connection string has none.
const DEFAULT_DATABASE: &str = "echoic";
/// Limit for finding a primary, unless the connection string sets one.
const SELECTION_TIMEOUT: Duration = Duration::from_secs(2);
/// Limit for each step of the startup. More than waiting for another instance's migration takes.
const START_TIMEOUT: Duration = Duration::from_secs(150);

impl MongoStore {
    /// Connects to the database at `url`, checks that it is suitable, and migrates its schema.
    ///
    /// `lease` is the time without a heartbeat after which this instance counts as dead. Errors are
    /// sentences for an operator that say what to change.
    pub async fn open(url: &str, lease: Duration) -> Result<Self> {
        let store = Self::connect(url, lease).await?;
        with_start_timeout(
            &store.address,
            schema::migrate_schema(&store.collections, &store.address),
        )
        .await?;
        let repair = ledger_repair::repair_totals(&store.collections);
        with_start_timeout(&store.address, repair).await?;
        Ok(store)
    }

    /// Connects for commands that only read, while instances are running. Changes no index.
    pub async fn open_read_only(url: &str) -> Result<Self> {
        Self::connect(url, Duration::ZERO).await
    }

    async fn connect(url: &str, lease: Duration) -> Result<Self> {
        let mut options = ClientOptions::parse(url).await.map_err(|error| {
            let why = redact_password(&error.to_string(), url);
            startup_error(format!("DATABASE_URL is not a valid MongoDB connection string: {why}"))
        })?;
        options.app_name.get_or_insert_with(|| "echoic".to_owned());
        options.server_selection_timeout.get_or_insert(SELECTION_TIMEOUT);
        options.connect_timeout.get_or_insert(SELECTION_TIMEOUT);
        // An acknowledged write survives a failover, and a read never returns one that may not. The
        // connection string cannot weaken this.
        options.write_concern = Some(durable_write_concern());
        options.read_concern = Some(ReadConcern::majority());
        options.selection_criteria =
            Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        options.retry_writes = Some(true);
        options.retry_reads = Some(true);
        let hosts = options.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let name = options.default_database.clone().unwrap_or_else(|| DEFAULT_DATABASE.to_owned());
        let address = format!("{hosts}/{name}");
        let client = Client::with_options(options).map_err(|error| {
            let why = redact_password(&error.to_string(), url);
            startup_error(format!("DATABASE_URL cannot be used: {why}"))
        })?;
        let database = client.database(&name);
        with_start_timeout(&address, check_server(&database, &address)).await?;
        let collections = Collections::new(database);
        Ok(Self {
            client,
            collections,
            address,
            lease,
            suspected_orphans: Default::default(),
            session_locks: Default::default(),
            content_keys: Default::default(),
            causal_timestamp: Default::default(),
            rebuild_holder: Uuid::now_v7().to_string(),
            cleanup_tasks: Default::default(),
        })
    }
}

async fn with_start_timeout<T>(address: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| startup_error(format!("connecting to MongoDB at {address} timed out"));
    timeout(START_TIMEOUT, work).await.map_err(late)?
}

/// Checks that the server is reachable, accepts the credentials, and supports transactions.
async fn check_server(database: &Database, address: &str) -> Result<()> {
    let hello = database.run_command(doc! { "hello": 1 }).await;
    let hello = hello.map_err(|error| explain_error(&error, address))?;
    // A member of a replica set names it; a router of a sharded cluster says `isdbgrid`.
    let is_cluster =
        hello.contains_key("setName") || hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid");
    if !is_cluster {
        return Err(startup_error(format!(
            "MongoDB at {address} is a standalone server; Echoic needs transactions, so start it with \
             --replSet (one member is enough) and run rs.initiate(), or use a sharded cluster"
        )));
    }
    // `hello` needs no permissions. This is the first command that does.
    let read = database.collection::<Document>("schema").find_one(doc! {}).await;
    read.map(|_| ()).map_err(|error| explain_error(&error, address))
}

fn explain_error(error: &mongodb::error::Error, address: &str) -> Error {
    /// `AuthenticationFailed` and `Unauthorized`.
    const ACCESS_DENIED_CODES: [i32; 2] = [18, 13];
    let mut cause = Some(error.clone());
    let sentence = match error.kind.as_ref() {
        DriverErrorKind::Authentication { .. } => {
            format!("MongoDB at {address} rejected the user name or password in DATABASE_URL")
        }
        // The driver's message lists the state of every server. The first error in it is enough.
        DriverErrorKind::ServerSelection { message, .. } => {
            cause = None;
            let why =
                message.split_once("Error: Kind: ").map(|(_, rest)| rest.split(", labels:").next());
            let why = why.flatten().unwrap_or("no server that takes writes answered in time");
            format!(
                "MongoDB at {address} cannot be reached ({why}); is it running, and does it belong to \
                 the replica set named in DATABASE_URL?"
            )
        }
        DriverErrorKind::Command(command) if ACCESS_DENIED_CODES.contains(&command.code) => {
            format!(
                "MongoDB at {address} denied access: DATABASE_URL must name a user with the role readWrite \
                 on this database, its password, and authSource if the user was created in another database"
            )
        }
        _ => format!("MongoDB at {address} cannot be used"),
    };
    let explained = Error::new(ErrorKind::StoreUnavailable, sentence);
    match cause {
        Some(cause) => explained.with_source(cause),
        None => explained,
    }
}

/// Removes the password from an error message that may quote the connection string.
fn redact_password(message: &str, url: &str) -> String {
    let credentials = url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@'));
    let password = credentials.and_then(|(credentials, _)| credentials.split_once(':'));
    match password {
        Some((_, password)) if !password.is_empty() => message.replace(password, "***"),
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::redact_password;

    #[test]
    fn connection_error_hides_password() {
        let url = "mongodb://ada:s3cret@db.example/echoic";
        assert_eq!(redact_password("bad value s3cret", url), "bad value ***");
        assert_eq!(redact_password("bad value", "mongodb://db.example"), "bad value");
    }
}

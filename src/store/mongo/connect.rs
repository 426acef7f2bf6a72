//! Opening the database: what the connection string says, and what the server must be.

use super::schema;
use super::{Collections, MongoStore};
use crate::error::{Error, ErrorKind, Result};
use mongodb::bson::{Document, doc};
use mongodb::error::ErrorKind as DriverErrorKind;
use mongodb::options::{
    ClientOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern,
};
use mongodb::{Client, Database};
use std::time::Duration;
use tokio::time::timeout;

/// The database, where the connection string names none.
const DEFAULT_DATABASE: &str = "echoic";
/// How long to look for a server that takes writes, unless the connection string says otherwise.
const SELECTION_TIMEOUT: Duration = Duration::from_secs(2);
/// How long everything that is done at the start may take.
const START_TIMEOUT: Duration = Duration::from_secs(150);

impl MongoStore {
    /// Connects to the database that `url` names, checks that it can do what is needed, and brings
    /// its indexes up to date. `lease` is the silence after which an instance counts as gone.
    /// Errors say what an operator can do.
    pub async fn open(url: &str, lease: Duration) -> Result<Self> {
        let store = Self::connect(url, lease).await?;
        with_start_timeout(
            &store.address,
            schema::migrate_schema(&store.collections, &store.address),
        )
        .await?;
        Ok(store)
    }

    /// The same for those who only look, beside the instances that use it: no index is touched.
    pub async fn open_read_only(url: &str) -> Result<Self> {
        Self::connect(url, Duration::ZERO).await
    }

    async fn connect(url: &str, lease: Duration) -> Result<Self> {
        let mut options = ClientOptions::parse(url).await.map_err(|error| {
            let why = redact_password(&error.to_string(), url);
            startup_error(format!("DATABASE_URL is not a connection string of MongoDB: {why}"))
        })?;
        options.app_name.get_or_insert_with(|| "echoic".to_owned());
        options.server_selection_timeout.get_or_insert(SELECTION_TIMEOUT);
        options.connect_timeout.get_or_insert(SELECTION_TIMEOUT);
        // What is acknowledged outlives a failover, and nobody reads what may not.
        options.write_concern = Some(WriteConcern::majority());
        options.read_concern = Some(ReadConcern::majority());
        options.selection_criteria =
            Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        options.retry_writes = Some(true);
        options.retry_reads = Some(true);
        let hosts = options.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let name = options.default_database.clone().unwrap_or_else(|| DEFAULT_DATABASE.to_owned());
        let place = format!("{hosts}/{name}");
        let client = Client::with_options(options).map_err(|error| {
            let why = redact_password(&error.to_string(), url);
            startup_error(format!("DATABASE_URL cannot be used: {why}"))
        })?;
        let database = client.database(&name);
        with_start_timeout(&place, check_server(&database, &place)).await?;
        let tables = Collections::new(database);
        Ok(Self {
            client,
            collections: tables,
            address: place,
            lease,
            suspected_orphans: Default::default(),
            session_locks: Default::default(),
            causal_timestamp: Default::default(),
        })
    }
}

async fn with_start_timeout<T>(place: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| startup_error(format!("MongoDB at {place} does not answer"));
    timeout(START_TIMEOUT, work).await.map_err(late)?
}

/// Whether the server is there, lets us in, and knows transactions.
async fn check_server(database: &Database, place: &str) -> Result<()> {
    let hello = database.run_command(doc! { "hello": 1 }).await;
    let hello = hello.map_err(|error| explain_error(&error, place))?;
    let is_set =
        hello.contains_key("setName") || hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid");
    if !is_set {
        return Err(startup_error(format!(
            "MongoDB at {place} is a single server; Echoic needs transactions, so start it with --replSet \
             (one member is enough) and run rs.initiate(), or use a sharded cluster"
        )));
    }
    // The first command that needs the rights of the user.
    let allowed = database.collection::<Document>("schema").find_one(doc! {}).await;
    allowed.map(|_| ()).map_err(|error| explain_error(&error, place))
}

fn explain_error(error: &mongodb::error::Error, place: &str) -> Error {
    /// "AuthenticationFailed" and "Unauthorized".
    const ACCESS_DENIED_CODES: [i32; 2] = [18, 13];
    let mut cause = Some(error.clone());
    let sentence = match error.kind.as_ref() {
        DriverErrorKind::Authentication { .. } => {
            format!("MongoDB at {place} refused the user name or the password of DATABASE_URL")
        }
        // What the driver says of each server is long; the first complaint tells it.
        DriverErrorKind::ServerSelection { message, .. } => {
            cause = None;
            let why =
                message.split_once("Error: Kind: ").map(|(_, rest)| rest.split(", labels:").next());
            let why = why.flatten().unwrap_or("no server that takes writes answered in time");
            format!(
                "MongoDB at {place} cannot be reached ({why}); is it running, and is the replica set of DATABASE_URL the \
                 one it belongs to?"
            )
        }
        DriverErrorKind::Command(command) if ACCESS_DENIED_CODES.contains(&command.code) => {
            format!(
                "MongoDB at {place} does not let this user in: DATABASE_URL must name a user with the role readWrite on \
             that database, its password, and authSource if the user was created in another one"
            )
        }
        _ => format!("MongoDB at {place} cannot be used"),
    };
    let explained = Error::new(ErrorKind::StoreUnavailable, sentence);
    match cause {
        Some(cause) => explained.with_source(cause),
        None => explained,
    }
}

/// A message that may quote the connection string, without the password in it.
fn redact_password(message: &str, url: &str) -> String {
    let credentials = url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@'));
    let password = credentials.and_then(|(credentials, _)| credentials.split_once(':'));
    match password {
        Some((_, password)) if !password.is_empty() => message.replace(password, "***"),
        _ => message.to_owned(),
    }
}

pub(super) fn startup_error(sentence: String) -> Error {
    Error::new(ErrorKind::StoreUnavailable, sentence)
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

// The database's health check, run by mongosh: succeeds if the replica set has a primary. The first
// run creates the replica set. Its configuration is stored in the volume, so later runs find it and
// change nothing.
try {
    rs.status();
} catch (error) {
    if (error.codeName !== "NotYetInitialized") throw error;
    rs.initiate({ _id: "rs0", members: [{ _id: 0, host: "mongo:27017" }] });
}
quit(db.hello().isWritablePrimary ? 0 : 1);

// The database's health check, for mongosh: succeeds if the replica set has its primary. The first
// time there is no replica set yet, and it is made here; from then on its configuration lies in the
// volume, so a restart finds it and changes nothing.
try {
    rs.status();
} catch (error) {
    if (error.codeName !== "NotYetInitialized") throw error;
    rs.initiate({ _id: "rs0", members: [{ _id: 0, host: "mongo:27017" }] });
}
quit(db.hello().isWritablePrimary ? 0 : 1);

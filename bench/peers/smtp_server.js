// smtp-server on Node.js, on 127.0.0.1: node smtp_server.js PORT [PEM]
//
// Its defaults, but that nobody has to log in, no name is looked up, and STARTTLS is not offered,
// with hooks that accept, and a body that is taken piece by piece and dropped. PEM: key and
// certificate; with them all of it is inside of TLS. NODE_PATH says where the package is.
'use strict';

const fs = require('node:fs');
const { SMTPServer } = require('smtp-server');

const [port, pem] = process.argv.slice(2);
const options = {
    name: 'bench.example',
    authOptional: true,
    disabledCommands: pem ? ['AUTH'] : ['AUTH', 'STARTTLS'],
    disableReverseLookup: true,
    onConnect: (session, callback) => callback(),
    onMailFrom: (address, session, callback) => callback(),
    onRcptTo: (address, session, callback) => callback(),
    onData: (stream, session, callback) => {
        stream.on('data', () => {});
        stream.on('end', () => callback());
    }
};
if (pem) {
    const both = fs.readFileSync(pem);
    Object.assign(options, { secure: true, key: both, cert: both, minVersion: 'TLSv1.3' });
}
const server = new SMTPServer(options);
server.on('error', () => {}); // of a client that is gone
server.listen({ port: Number(port), host: '127.0.0.1', backlog: 1024 });

// A receiver on Node's http, for the tests of the sender. Its one argument is JSON; see tests/real_servers.py.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { createSecureContext } from "node:tls";
import { gzipSync } from "node:zlib";

const at = JSON.parse(process.argv[2]);

for (const host of ["127.0.0.1", "::1"]) {
  http.createServer(receive).listen(at.port, host);
}
for (const one of at.tls) {
  const options = { cert: readFileSync(one.cert), key: readFileSync(one.key) };
  if (one.namedCert) {
    const named = createSecureContext({ cert: readFileSync(one.namedCert), key: readFileSync(one.namedKey) });
    const byDefault = createSecureContext(options);
    options.SNICallback = (name, done) => done(null, name === "localhost" ? named : byDefault);
  }
  https.createServer(options, receive).listen(one.port, "127.0.0.1");
}

function receive(request, response) {
  const [name, argument] = request.url.split("?")[0].slice(1).split("/");
  if (name === "early") {
    response.writeHead(413, { Connection: "close" }).end("too large");
    return;
  }
  const pieces = [];
  request.on("data", (piece) => pieces.push(piece));
  request.on("end", () => answers[name](response, argument, request, Buffer.concat(pieces)));
}

const answers = {
  echo(response, _argument, request, body) {
    const told = {
      method: request.method,
      target: request.url,
      headers: request.headers,
      bytes: body.length,
      sha256: createHash("sha256").update(body).digest("hex"),
      connection: `${request.socket.remoteAddress}:${request.socket.remotePort}`,
    };
    response.end(JSON.stringify(told));
  },
  status(response, argument) {
    const headers = argument === "429" || argument === "503" ? { "Retry-After": "7" } : {};
    response.writeHead(Number(argument), headers);
    response.end(argument === "204" || argument === "304" ? "" : `status ${argument}`);
  },
  chunked(response) {
    response.write("one ");
    setImmediate(() => {
      response.write("two ");
      setImmediate(() => response.end("three"));
    });
  },
  close(response) {
    response.writeHead(200, { Connection: "close" }).end("closed");
  },
  informational(response) {
    response.writeContinue();
    response.writeEarlyHints({ link: "</style.css>; rel=preload" });
    response.end("final");
  },
  never() {},
  cut(response) {
    response.writeHead(200, { "Content-Length": 100 });
    response.write("abc", () => response.socket.destroy());
  },
  endless(response) {
    const piece = Buffer.alloc(8192);
    const more = () => {
      while (!response.destroyed && response.write(piece));
    };
    response.on("drain", more);
    more();
  },
  bomb(response) {
    response.writeHead(200, { "Content-Encoding": "gzip" }).end(gzipSync(Buffer.alloc(10_000_000)));
  },
  drip(response) {
    const beat = setInterval(() => response.write("."), 20);
    response.on("close", () => clearInterval(beat));
  },
};

import { Effect } from "effect"
import * as Http from "node:http"

/** What the server sends: a status, headers, and the body in pieces that are written one after the other. */
export interface Reply {
  readonly status?: number
  readonly headers?: { readonly [name: string]: string }
  readonly body: string | ReadonlyArray<string | Uint8Array>
  /** Keeps the connection open after the last piece. */
  readonly hang?: true
}

export interface Received {
  readonly url: string
  readonly headers: Http.IncomingHttpHeaders
  readonly body: unknown
}

/** A server for bytes that no well-behaved wire would produce. `Upstream` has everything else. */
export const serve = (reply: Reply) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.callback<{
        readonly server: Http.Server
        readonly received: Array<Received>
        readonly connections: () => number
      }>((resume) => {
        const received: Array<Received> = []
        let connections = 0
        const server = Http.createServer((request, response) => {
          const pieces: Array<Buffer> = []
          request.on("data", (piece: Buffer) => pieces.push(piece))
          request.on("end", () => {
            const text = Buffer.concat(pieces).toString("utf8")
            received.push({ url: request.url ?? "", headers: request.headers, body: JSON.parse(text) })
            response.writeHead(reply.status ?? 200, { "content-type": "application/json", ...reply.headers })
            response.flushHeaders()
            const chunks = typeof reply.body === "string" ? [reply.body] : reply.body
            const write = (index: number): void => {
              const chunk = chunks[index]
              if (chunk !== undefined) response.write(chunk, () => setImmediate(() => write(index + 1)))
              else if (reply.hang !== true) response.end()
            }
            write(0)
          })
        })
        server.on("connection", () => connections++)
        server.listen(0, "127.0.0.1", () =>
          resume(Effect.succeed({ server, received, connections: () => connections }))
        )
      }),
      ({ server }) =>
        Effect.callback<void>((resume) => {
          server.close(() => resume(Effect.void))
          server.closeAllConnections()
        })
    ),
    ({ connections, received, server }) => {
      const address = server.address()
      const port = typeof address === "object" && address !== null ? address.port : 0
      return { baseUrl: `http://127.0.0.1:${port}/v1`, received, connections }
    }
  )

/** The text of a stream of events: each a JSON value, or text as it is. */
export const sse = (...events: ReadonlyArray<unknown>): string =>
  events.map((event) => `data: ${typeof event === "string" ? event : JSON.stringify(event)}\n\n`).join("")

/** The same with an `event:` line, as Anthropic writes it. */
export const named = (...events: ReadonlyArray<{ readonly type: string; readonly [field: string]: unknown }>): string =>
  events.map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`).join("")

import type * as ProviderError from "@llm-resilience/core/ProviderError"
import type * as Arr from "effect/Array"
import * as Effect from "effect/Effect"
import * as Sse from "effect/encoding/Sse"
import type * as HttpClientError from "effect/http/HttpClientError"
import type * as Pull from "effect/Pull"
import * as Utf8 from "./utf8.ts"

/** What the events of a stream are handed to. */
export interface Sink {
  readonly event: (name: string, data: string) => void
  /** The stream cannot be read any further. */
  readonly broken: (description: string) => void
  readonly maxEventBytes: number
  readonly maxDocumentBytes: number
}

export type Failure = HttpClientError.HttpClientError | ProviderError.ProviderError

/** A body that is being read. */
export interface Frames {
  /** Reads on and hands over the events in what has come. */
  readonly more: Pull.Pull<void, Failure, void>
  /** The body is over: hands over a last event whose end was left out. */
  readonly end: () => void
  /**
   * The body, when it begins like a document: an error without its status, the page of a proxy, or the whole answer of a server that
   * does not stream. The content type cannot be trusted to tell.
   */
  readonly document: () => string | undefined
}

/** The bytes of a body as they come. */
export type Body = Pull.Pull<Arr.NonEmptyReadonlyArray<Uint8Array>, Failure, void>

/** How a protocol tells one event from the next. */
export type Framing = (body: Body, sink: Sink) => Frames

/** Makes a framing of pieces of text or of bytes. */
export const framing =
  <Piece extends { readonly length: number }>(options: {
    /** Makes what turns the bytes of one body into pieces. */
    readonly pieces: () => (bytes: Uint8Array) => Piece
    /** The first character that counts, or nothing when there is none yet. */
    readonly begins: (piece: Piece) => string
    readonly text: (pieces: ReadonlyArray<Piece>) => string
    readonly parser: (sink: Sink) => { readonly feed: (piece: Piece) => void; readonly end: () => void }
  }): Framing =>
  (body, sink) => {
    const pieceOf = options.pieces()
    const parser = options.parser(sink)
    let beginning = true
    let document: Array<Piece> | undefined
    let length = 0
    const feed = (piece: Piece): void => {
      if (beginning) {
        const start = options.begins(piece)
        if (start === "") return
        beginning = false
        if (start === "{" || start === "[" || start === "<") document = []
      }
      if (document === undefined) return parser.feed(piece)
      length += piece.length
      if (length > sink.maxDocumentBytes) sink.broken(`The answer is longer than ${sink.maxDocumentBytes} bytes`)
      else document.push(piece)
    }
    return {
      more: Effect.map(body, (chunks) => {
        for (const bytes of chunks) feed(pieceOf(bytes))
      }),
      end: parser.end,
      document: () => (document === undefined ? undefined : options.text(document))
    }
  }

/** Server-sent events. */
export const sse: Framing = framing<string>({
  pieces: () => Utf8.decoder().text,
  begins: (piece) => piece.trimStart().charAt(0),
  text: (pieces) => pieces.join(""),
  parser: (sink) => {
    const parser = Sse.makeParser(
      (event) => {
        // `retry:` is for clients that reconnect. We never do: that is up to the policies above.
        if (event._tag === "Event") sink.event(event.event, event.data)
      },
      { maxEventSize: sink.maxEventBytes }
    )
    const feed = (piece: string): void => {
      if (parser.feed(piece) !== undefined) sink.broken(`An event is longer than ${sink.maxEventBytes} bytes`)
    }
    return { feed, end: () => feed("\n\n") }
  }
})

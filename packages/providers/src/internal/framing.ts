import type * as ProviderError from "@llm-resilience/core/ProviderError"
import type * as Arr from "effect/Array"
import * as Effect from "effect/Effect"
import * as Sse from "effect/encoding/Sse"
import type * as HttpClientError from "effect/http/HttpClientError"
import type * as Pull from "effect/Pull"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"

/** What the events of a stream are handed to. */
export interface Sink {
  readonly event: (name: string, data: string) => void
  /** The stream cannot be read any further. */
  readonly broken: (description: string) => void
  readonly maxEventBytes: number
  readonly maxDocumentBytes: number
}

type Failure = HttpClientError.HttpClientError | ProviderError.ProviderError

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

/** How a protocol tells one event from the next. */
export type Framing = (
  bytes: Stream.Stream<Uint8Array, Failure>,
  sink: Sink
) => Effect.Effect<Frames, never, Scope.Scope>

/** Makes a framing of pieces of text or of bytes. */
export const framing =
  <Piece extends { readonly length: number }>(options: {
    readonly pieces: (bytes: Stream.Stream<Uint8Array, Failure>) => Stream.Stream<Piece, Failure>
    /** The first character that counts, or nothing when there is none yet. */
    readonly begins: (piece: Piece) => string
    readonly text: (pieces: ReadonlyArray<Piece>) => string
    readonly parser: (sink: Sink) => { readonly feed: (piece: Piece) => void; readonly end: () => void }
  }): Framing =>
  (bytes, sink) =>
    Effect.map(Stream.toPull(options.pieces(bytes)), (pull) => {
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
        more: Effect.map(pull, (pieces: Arr.NonEmptyReadonlyArray<Piece>) => {
          for (const piece of pieces) feed(piece)
        }),
        end: parser.end,
        document: () => (document === undefined ? undefined : options.text(document))
      }
    })

/** Server-sent events. */
export const sse: Framing = framing<string>({
  pieces: Stream.decodeText,
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

/** Makes a decoder of UTF-8 that comes in pieces, which may end in the middle of a character. */
export const decoder = (): Utf8 => {
  const platform = new TextDecoder()
  return {
    text: (piece) => platform.decode(piece, { stream: true }),
    rest: () => platform.decode()
  }
}

export interface Utf8 {
  readonly text: (piece: Uint8Array) => string
  /** What is left when the pieces are over: nothing, or the sign for half a character. */
  readonly rest: () => string
}

// Every platform has it, and effect needs it too. `Stream.decodeText` is a step of its own for every piece.
declare const TextDecoder: new () => {
  readonly decode: (bytes?: Uint8Array, options?: { readonly stream: boolean }) => string
}

// What emitted JavaScript needs beside + - * / and Math.sqrt: see graph/javascript.py.
export {};
